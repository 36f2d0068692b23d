package main

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"path/filepath"
	"strings"
	"unicode/utf8"

	"go.yaml.in/yaml/v3"

	"github.com/latchkey-dev/latchkey"
	"github.com/latchkey-dev/latchkey/internal/strictjson"
	"github.com/latchkey-dev/latchkey/policies"
)

// sourceFile is a file in JSON, YAML or Rego as the JSON that it stands for,
// with where in the file each value of it came from.
type sourceFile struct {
	path  string
	lines []string
	json  []byte
	nodes map[string]*yaml.Node // by JSON pointer; empty where nothing is known
	rego  bool                  // the file is the text at /rego
}

// finding is a fault in a file.
type finding struct {
	File    string `json:"file"`
	Line    int    `json:"line"`
	Column  int    `json:"column"`
	Pointer string `json:"pointer"`
	Code    string `json:"code"`
	Detail  string `json:"detail"`
}

func (f finding) Error() string {
	return fmt.Sprintf("%s:%d:%d: %s (%s)", f.File, f.Line, f.Column, f.Detail, f.Code)
}

// findings are an error's faults as places in the file; nil when it is not
// about what is in the file.
func (f *sourceFile) findings(err error) (list []finding) {
	if found, ok := errors.AsType[finding](err); ok {
		return []finding{found}
	}
	e, ok := errors.AsType[*latchkey.Error](err)
	if !ok || e.Kind != latchkey.Invalid {
		return nil
	}
	for _, fault := range e.Faults {
		list = append(list, f.find(fault))
	}
	return list
}

// find maps a fault's pointer, and its line and column in the text there, to a
// line and column of the file. Where the text is folded or escaped too much for
// that, the place of the text is told, and the rest in words.
func (f *sourceFile) find(fault latchkey.Fault) finding {
	found := finding{File: f.path, Line: 1, Column: 1, Pointer: fault.Pointer, Code: fault.Code, Detail: fault.Detail}
	if f.rego {
		if fault.Line > 0 {
			found.Line, found.Column = fault.Line, fault.Column
		}
		return found
	}
	node, exact := f.node(fault.Pointer)
	if node == nil {
		if fault.Line > 0 {
			found.Detail = fmt.Sprintf("%s: line %d, column %d: %s", fault.Pointer, fault.Line, fault.Column, fault.Detail)
		}
		return found
	}
	found.Line, found.Column = node.Line, node.Column
	if fault.Line == 0 || !exact {
		return found
	}
	if line, column, ok := f.within(node, fault.Line, fault.Column); ok {
		found.Line, found.Column = line, column
	} else {
		found.Detail = fmt.Sprintf("line %d, column %d of the text here: %s", fault.Line, fault.Column, fault.Detail)
	}
	return found
}

// node finds the value at the pointer, or the nearest one around it.
func (f *sourceFile) node(pointer string) (_ *yaml.Node, exact bool) {
	exact = true
	for {
		if n := f.nodes[pointer]; n != nil {
			return n, exact
		}
		i := strings.LastIndexByte(pointer, '/')
		if i < 0 {
			return nil, false
		}
		pointer, exact = pointer[:i], false
	}
}

// within finds a place in a scalar's text in the file.
func (f *sourceFile) within(n *yaml.Node, line, column int) (int, int, bool) {
	switch n.Style { //nolint:exhaustive // the others are not laid out as their text is
	case yaml.LiteralStyle:
		if n.Line > len(f.lines) || strings.ContainsAny(f.lines[n.Line-1][strings.LastIndexByte(f.lines[n.Line-1], '|')+1:], "123456789") {
			return 0, 0, false
		}
		for _, text := range f.lines[n.Line:] { // the first line with text gives the indentation
			if bare := strings.TrimLeft(text, " "); strings.TrimSpace(bare) != "" {
				return n.Line + line, len(text) - len(bare) + column, true
			}
		}
	case yaml.DoubleQuotedStyle, yaml.SingleQuotedStyle:
		if n.Line > len(f.lines) {
			return 0, 0, false
		}
		text := []rune(f.lines[n.Line-1])
		atLine, atColumn := 1, 1
		for i := n.Column; i < len(text); { // past the quote
			if atLine == line && atColumn == column {
				return n.Line, i + 1, true
			}
			size, newline := escape(text[i:], n.Style)
			if size == 0 {
				break
			}
			i += size
			if atColumn++; newline {
				atLine, atColumn = atLine+1, 1
			}
		}
	case 0:
		if line == 1 && !strings.Contains(n.Value, "\n") && n.Line <= len(f.lines) && utf8.RuneCountInString(f.lines[n.Line-1]) >= n.Column+column-1 {
			return n.Line, n.Column + column - 1, true
		}
	}
	return 0, 0, false
}

// escape tells how many characters of the file stand for the next one of the
// text, 0 at its end.
func escape(text []rune, style yaml.Style) (size int, newline bool) {
	switch c := text[0]; {
	case style == yaml.SingleQuotedStyle && c == '\'':
		if len(text) > 1 && text[1] == '\'' {
			return 2, false
		}
		return 0, false
	case style == yaml.SingleQuotedStyle:
		return 1, false
	case c == '"' || c == '\\' && len(text) == 1:
		return 0, false
	case c == '\\':
		return map[rune]int{'x': 4, 'u': 6, 'U': 10}[text[1]] + map[bool]int{true: 0, false: 2}[strings.ContainsRune("xuU", text[1])], text[1] == 'n'
	}
	return 1, false
}

// readSource reads a file of JSON, YAML or, by its name, Rego. What is wrong
// with its form is an error with a place.
func readSource(path string, in io.Reader) (*sourceFile, error) {
	f := &sourceFile{path: path, nodes: map[string]*yaml.Node{}}
	text, err := readInput(path, in)
	if err != nil {
		return f, err
	}
	f.lines = strings.Split(string(text), "\n")
	if !utf8.Valid(text) {
		return f, f.malformed(1, "the file is not UTF-8")
	}
	switch filepath.Ext(path) {
	case ".rego":
		f.rego = true
		name, err := policies.ModuleName(string(text))
		if err != nil {
			return f, err
		}
		f.json = (&policies.Document{Name: name, Language: policies.Rego, Rego: string(text)}).AppendJSON(nil)
		return f, nil
	case ".json":
		f.json = text
		var root yaml.Node
		if yaml.Unmarshal(text, &root) == nil { // for the places alone; JSON with tabs has none
			_, _ = f.convert(nil, &root, "")
		}
		return f, nil
	}
	d := yaml.NewDecoder(bytes.NewReader(text))
	var root, more yaml.Node
	if err := d.Decode(&root); err != nil {
		return f, f.malformed(1, strings.TrimPrefix(err.Error(), "yaml: "))
	}
	if err := d.Decode(&more); !errors.Is(err, io.EOF) {
		return f, f.malformed(max(more.Line, 1), "the file holds more than one document")
	}
	f.json, err = f.convert(nil, &root, "")
	return f, err
}

func (f *sourceFile) malformed(line int, detail string) error {
	return finding{File: f.path, Line: line, Column: 1, Code: "malformed_file", Detail: detail}
}

// convert appends YAML as JSON, and notes where each value stands. Only what
// JSON can say is read; anchors, which can stand for more text than there is
// memory, are not.
func (f *sourceFile) convert(b []byte, n *yaml.Node, pointer string) (_ []byte, err error) {
	f.nodes[pointer] = n
	switch n.Kind { //nolint:exhaustive // an alias is refused below
	case yaml.DocumentNode:
		return f.convert(b, n.Content[0], pointer)
	case yaml.SequenceNode:
		b = append(b, '[')
		for i, e := range n.Content {
			if i > 0 {
				b = append(b, ',')
			}
			if b, err = f.convert(b, e, strictjson.PointerIndex(pointer, i)); err != nil {
				return nil, err
			}
		}
		return append(b, ']'), nil
	case yaml.MappingNode:
		b = append(b, '{')
		for i := 0; i < len(n.Content); i += 2 {
			if i > 0 {
				b = append(b, ',')
			}
			name := n.Content[i]
			if name.Kind != yaml.ScalarNode || name.ShortTag() == "!!merge" {
				return nil, f.malformed(name.Line, "a name is a plain text")
			}
			b = append(strictjson.AppendString(b, name.Value), ':')
			if b, err = f.convert(b, n.Content[i+1], strictjson.Pointer(pointer, name.Value)); err != nil {
				return nil, err
			}
		}
		return append(b, '}'), nil
	case yaml.ScalarNode:
		switch n.ShortTag() {
		case "!!str", "!!timestamp":
			return strictjson.AppendString(b, n.Value), nil
		case "!!null":
			return append(b, `null`...), nil
		case "!!bool":
			return append(b, strings.ToLower(n.Value)...), nil
		case "!!int", "!!float":
			var doc strictjson.Doc
			if doc.Parse(n.Value) == nil {
				return append(b, n.Value...), nil
			}
			return nil, f.malformed(n.Line, "write numbers as in JSON, or quote the text")
		}
	}
	return nil, f.malformed(n.Line, "anchors, aliases and tags are not read")
}

// readPolicy reads a policy and does not compile it. The file is never nil.
func readPolicy(path string, in io.Reader) (*sourceFile, *policies.Document, error) {
	f, err := readSource(path, in)
	if err != nil {
		return f, nil, err
	}
	var doc strictjson.Doc
	if err := doc.Parse(string(f.json)); err != nil {
		return f, nil, err
	}
	d, err := policies.ParseDocument(doc.Root(), "")
	return f, d, err
}
