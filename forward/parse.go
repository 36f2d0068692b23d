package forward

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"maps"
	"slices"
	"strings"
	"unicode/utf8"

	"go.yaml.in/yaml/v3"

	"github.com/latchkey-dev/latchkey"
)

// fault is something wrong with a routes file.
type fault struct {
	line int
	text string
}

func (f *fault) Error() string {
	return fmt.Sprintf("line %d: %s", f.line, f.text)
}

func faultf(n *yaml.Node, format string, args ...any) error {
	return &fault{n.Line, fmt.Sprintf(format, args...)}
}

// ParseRoutes reads a routes file (YAML) strictly: whatever is unknown, twice,
// of another kind or could never match is an error that names its line.
//
//	routes:                        # the first that matches decides
//	  - host: api.example.com      # exact, without port; any host where absent
//	    path: /orders/{id}         # {name} is one segment, a last {name...} all the rest
//	    methods: [GET, DELETE]     # those with a default action where absent
//	    type: order
//	    id: "{id}"                 # text and parameters of the path
//	    action: read               # by the method where absent
//	    customer: acme             # every customer where absent
//
// The default actions: GET and HEAD read, POST create, PUT and PATCH update,
// DELETE delete. Any other method has to be listed, with an action.
func ParseRoutes(text []byte) (*Routes, error) {
	if len(text) > maxFile {
		return nil, fmt.Errorf("the file is over %d bytes", maxFile)
	}
	if !utf8.Valid(text) {
		return nil, errors.New("the file is not valid UTF-8")
	}
	decoder := yaml.NewDecoder(bytes.NewReader(text))
	var document, second yaml.Node
	if err := decoder.Decode(&document); err != nil {
		if errors.Is(err, io.EOF) {
			return nil, errors.New("the file is empty")
		}
		return nil, err // names the line
	}
	if err := decoder.Decode(&second); !errors.Is(err, io.EOF) {
		return nil, errors.New("the file holds more than one document")
	}
	members, err := mapping(document.Content[0], "routes")
	if err != nil {
		return nil, err
	}
	list := members["routes"]
	switch {
	case list == nil:
		return nil, faultf(document.Content[0], "routes: missing")
	case list.Kind != yaml.SequenceNode:
		return nil, faultf(list, "routes: want a list")
	case len(list.Content) > maxRules:
		return nil, faultf(list, "routes: at most %d", maxRules)
	}
	t := &Routes{}
	for _, n := range list.Content {
		r, err := parseRule(n)
		if err != nil {
			return nil, err
		}
		t.rules = append(t.rules, r)
	}
	return t, nil
}

// mapping takes a mapping apart, which may hold the names given, each once.
func mapping(n *yaml.Node, known ...string) (map[string]*yaml.Node, error) {
	if n.Kind != yaml.MappingNode {
		return nil, faultf(n, "want a mapping with %s", strings.Join(known, ", "))
	}
	members := map[string]*yaml.Node{}
	for i := 0; i < len(n.Content); i += 2 {
		name, value := n.Content[i], n.Content[i+1]
		switch {
		case name.Kind != yaml.ScalarNode || !slices.Contains(known, name.Value):
			return nil, faultf(name, "unknown key %q; known are %s", name.Value, strings.Join(known, ", "))
		case members[name.Value] != nil:
			return nil, faultf(name, "%s: stands twice", name.Value)
		case value.Kind == yaml.AliasNode:
			return nil, faultf(value, "%s: aliases are not read", name.Value)
		}
		members[name.Value] = value
	}
	return members, nil
}

// text reads a string. A number or a truth value has to be quoted, so that
// nothing is rewritten on the way.
func text(n *yaml.Node, name string, most int) (string, error) {
	if n.Kind != yaml.ScalarNode || n.Tag != "!!str" {
		return "", faultf(n, "%s: want a text; quote it where it looks like something else", name)
	}
	if n.Value == "" || len(n.Value) > most {
		return "", faultf(n, "%s: want 1 to %d bytes", name, most)
	}
	for _, r := range n.Value {
		if r < ' ' || r >= 0x7f && r < 0xa0 {
			return "", faultf(n, "%s: holds a control character", name)
		}
	}
	return n.Value, nil
}

func parseRule(n *yaml.Node) (r rule, err error) {
	m, err := mapping(n, "host", "path", "methods", "type", "id", "action", "customer")
	if err != nil {
		return r, err
	}
	for _, required := range []string{"path", "type", "id"} {
		if m[required] == nil {
			return r, faultf(n, "%s: missing", required)
		}
	}
	if c := m["customer"]; c != nil {
		if r.customer, err = text(c, "customer", latchkey.MaxName); err != nil {
			return r, err
		}
		if !latchkey.ValidName(r.customer) {
			return r, faultf(c, "customer: %q is no name", r.customer)
		}
	}
	if h := m["host"]; h != nil {
		if r.host, err = text(h, "host", maxText); err != nil {
			return r, err
		}
		if canonical, ok := ParseHost(r.host); !ok || canonical != r.host {
			return r, faultf(h, "host: want a name in lower case, without port and final dot")
		}
	}
	if r.typ, err = text(m["type"], "type", maxText); err != nil {
		return r, err
	}
	params, err := r.parsePattern(m["path"])
	if err != nil {
		return r, err
	}
	if err := r.parseID(m["id"], params); err != nil {
		return r, err
	}
	action := ""
	if a := m["action"]; a != nil {
		if action, err = text(a, "action", maxText); err != nil {
			return r, err
		}
	}
	r.actions, err = parseMethods(m["methods"], action)
	return r, err
}

// parsePattern returns the places of the parameters by their names.
func (r *rule) parsePattern(n *yaml.Node) (map[string]int, error) {
	pattern, err := text(n, "path", MaxTarget)
	if err != nil {
		return nil, err
	}
	if pattern[0] != '/' {
		return nil, faultf(n, "path: want a slash first")
	}
	params := map[string]int{}
	segments := strings.Split(pattern[1:], "/")
	for i, s := range segments {
		last := i == len(segments)-1
		name, isParam := strings.CutPrefix(s, "{")
		name, closed := strings.CutSuffix(name, "}")
		switch {
		case !isParam || !closed:
			if strings.ContainsAny(s, "{}") {
				return nil, faultf(n, "path: a parameter is a whole segment, and braces are nothing else: %q", s)
			}
			if s == "" && last { // the path ends in a slash
				r.pattern = append(r.pattern, part{})
				continue
			}
			if !literalSegment(s) {
				return nil, faultf(n, "path: the segment %q is in no path that is accepted; write it decoded", s)
			}
			r.pattern = append(r.pattern, part{literal: s})
			continue
		}
		name, rest := strings.CutSuffix(name, "...")
		switch _, known := params[name]; {
		case !validParam(name):
			return nil, faultf(n, "path: %q is no name of a parameter: want letters, digits and underscores", name)
		case known:
			return nil, faultf(n, "path: {%s} stands twice", name)
		case rest && !last:
			return nil, faultf(n, "path: {%s...} must be last", name)
		}
		params[name] = i
		r.pattern = append(r.pattern, part{param: !rest, rest: rest})
	}
	return params, nil
}

// literalSegment reports whether a path can decode to the segment.
func literalSegment(s string) bool {
	return s != "" && s != "." && s != ".." && !strings.ContainsAny(s, `\;%?#`)
}

func validParam(name string) bool {
	for i := 0; i < len(name); i++ {
		c := name[i]
		if (c < '0' || c > '9') && (c < 'A' || c > 'Z') && (c < 'a' || c > 'z') && c != '_' {
			return false
		}
	}
	return name != ""
}

func (r *rule) parseID(n *yaml.Node, params map[string]int) error {
	template, err := text(n, "id", maxID)
	if err != nil {
		return err
	}
	for template != "" {
		open := strings.IndexAny(template, "{}")
		if open < 0 {
			open = len(template)
		}
		if open > 0 {
			r.id = append(r.id, piece{literal: template[:open], segment: -1})
			template = template[open:]
			continue
		}
		end := strings.IndexByte(template, '}')
		if template[0] == '}' || end < 0 {
			return faultf(n, "id: braces stand around the name of a parameter only")
		}
		at, ok := params[strings.TrimSuffix(template[1:end], "...")]
		if !ok {
			return faultf(n, "id: the path has no parameter %s", template[:end+1])
		}
		r.id = append(r.id, piece{segment: at, rest: r.pattern[at].rest})
		template = template[end+1:]
	}
	return nil
}

// parseMethods returns the actions by method.
func parseMethods(n *yaml.Node, action string) (map[string]string, error) {
	actions := map[string]string{}
	if n == nil {
		actions = maps.Clone(defaultActions)
		if action != "" {
			for m := range actions {
				actions[m] = action
			}
		}
		return actions, nil
	}
	if n.Kind != yaml.SequenceNode || len(n.Content) == 0 {
		return nil, faultf(n, "methods: want a list with one at least")
	}
	for _, item := range n.Content {
		method, err := text(item, "methods", 32)
		switch {
		case err != nil:
			return nil, err
		case !ValidMethod(method) || method != strings.ToUpper(method):
			return nil, faultf(item, "methods: %q is no method; they are written in capitals", method)
		case actions[method] != "":
			return nil, faultf(item, "methods: %s stands twice", method)
		}
		actions[method] = action
		if action == "" {
			if actions[method] = defaultActions[method]; actions[method] == "" {
				return nil, faultf(item, "methods: %s has no action of its own: give the rule an action", method)
			}
		}
	}
	return actions, nil
}
