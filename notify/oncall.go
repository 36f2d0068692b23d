package notify

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"sync"
	"time"
	"unicode/utf8"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/latchkey-dev/latchkey/authz"
	"github.com/latchkey-dev/latchkey/internal/strictjson"
)

// Bounds of what providers of on-call states are asked and answer.
const (
	onCallWait     = 5 * time.Second // for all providers together
	onCallReply    = 1 << 20         // bytes of one reply
	onCallEvidence = 16              // of one provider
	onCallText     = 256             // bytes of a name that is kept
	onCallPages    = 20
)

// OnCallQuestion asks who somebody is, as far as duty goes. Nothing of it decides
// but the person: of the rest a provider may be told.
type OnCallQuestion struct {
	At     time.Time
	Person OnCallPerson
	// Template is what is asked for, and stands for the resources where there are
	// none.
	Template  OnCallResource
	Resources []OnCallResource
}

// OnCallPerson is who access is for. Providers find a person by Email, which is
// in lower case; nobody is found by an empty one.
type OnCallPerson struct{ ID, Email, Name string }

// OnCallResource is one thing that access is asked for.
type OnCallResource struct {
	Kind, ID, Name string
	Labels         map[string]string
}

// OnCallState is what a provider knows of a person now. The zero OnCallState is
// that of somebody who is off duty.
type OnCallState struct {
	Active bool
	// Roles and Schedules are names as the provider has them.
	Roles, Schedules []string
	Evidence         []OnCallEvidence
	// Most is the longest that the provider lets an approval last; 0 where it does
	// not say.
	Most time.Duration
}

// OnCallEvidence is one fact that makes a person active.
type OnCallEvidence struct {
	Provider string `json:"provider"`
	Kind     string `json:"kind"` // incident, schedule, escalation_policy, claim
	ID       string `json:"id"`
	Name     string `json:"name,omitempty"`
	Role     string `json:"role,omitempty"`  // in an incident
	Level    int64  `json:"level,omitempty"` // of an escalation policy, from 1
}

// OnCallProvider knows who is on duty. Safe for concurrent use.
type OnCallProvider interface {
	// Name is incidentio, pagerduty or http.
	Name() string
	// Ask returns a person's state. An error, which has no secret in it, says that
	// nobody can tell: never that the person is off duty.
	Ask(ctx context.Context, q *OnCallQuestion) (OnCallState, error)
}

// OnCall asks providers. It keeps no answer: whoever is on duty now may not be in a
// minute. The zero OnCall has none. Safe for concurrent use.
type OnCall struct {
	providers []OnCallProvider
	asked     *prometheus.CounterVec
}

// NewOnCall makes one of providers with different names.
func NewOnCall(registry *prometheus.Registry, providers ...OnCallProvider) *OnCall {
	o := &OnCall{providers: providers, asked: prometheus.NewCounterVec(prometheus.CounterOpts{
		Name: "latchkey_oncall_asked_total",
		Help: "Times that a provider was asked who is on call, by its answer: active, inactive, or unknown, where it gave none that can be used.",
	}, []string{"provider", "answer"})}
	registry.MustRegister(o.asked)
	for _, name := range onCallNames {
		for _, answer := range []string{"active", "inactive", "unknown"} {
			o.asked.WithLabelValues(name, answer)
		}
	}
	return o
}

// onCallNames are the providers that there can be.
var onCallNames = []string{"incidentio", "pagerduty", "http"}

// Names are those of the providers.
func (o *OnCall) Names() (names []string) {
	for _, p := range o.providers {
		names = append(names, p.Name())
	}
	return names
}

// Ask asks all providers that want names at once, and waits 5 seconds for them at
// most. States has those that answered, and unknown says of the others why not.
func (o *OnCall) Ask(ctx context.Context, want []string, q *OnCallQuestion) (states map[string]OnCallState, unknown map[string]error) {
	ctx, cancel := context.WithTimeout(ctx, onCallWait)
	defer cancel()
	states, unknown = map[string]OnCallState{}, map[string]error{}
	var mu sync.Mutex
	var asking sync.WaitGroup
	for _, p := range o.providers {
		if !slices.Contains(want, p.Name()) {
			continue
		}
		asking.Go(func() {
			state, err := p.Ask(ctx, q)
			mu.Lock()
			defer mu.Unlock()
			answer := "inactive"
			switch {
			case err != nil:
				answer, unknown[p.Name()] = "unknown", err
			default:
				if state.Active {
					answer = "active"
				}
				states[p.Name()] = state
			}
			o.asked.WithLabelValues(p.Name(), answer).Inc()
		})
	}
	asking.Wait()
	return states, unknown
}

// add records a fact that makes the person active.
func (s *OnCallState) add(e OnCallEvidence) {
	s.Active = true
	for _, text := range []*string{&e.ID, &e.Name, &e.Role} {
		*text = clip(authz.Redact(*text), onCallText) // it goes into events
	}
	if len(s.Evidence) < onCallEvidence {
		s.Evidence = append(s.Evidence, e)
	}
	note := func(names *[]string, name string) {
		if name != "" && len(*names) < onCallEvidence && !slices.Contains(*names, name) {
			*names = append(*names, name)
		}
	}
	note(&s.Roles, e.Role)
	if e.Kind == "schedule" {
		note(&s.Schedules, e.Name)
	}
}

// clip cuts a text to at most most bytes, between two letters.
func clip(s string, most int) string {
	if len(s) <= most {
		return s
	}
	for most > 0 && !utf8.RuneStart(s[most]) {
		most--
	}
	return s[:most]
}

// sameEmail reports whether two addresses are one person's: equal but for the case
// of ASCII letters, and there. Unicode folds more than one letter into another,
// which would make one person of two.
func sameEmail(a, b string) bool {
	lower := func(s string) string {
		return strings.Map(func(c rune) rune {
			if 'A' <= c && c <= 'Z' {
				c += 'a' - 'A'
			}
			return c
		}, s)
	}
	return a != "" && b != "" && lower(a) == lower(b)
}

// onCallBase reads the base URL of a provider.
func onCallBase(text string) (*url.URL, error) {
	u, err := url.Parse(text)
	if err != nil || u.Scheme != "http" && u.Scheme != "https" || u.Host == "" || u.User != nil || u.RawQuery != "" || u.Fragment != "" {
		return nil, errors.New("want an http or https URL, without a user, a query or a fragment")
	}
	return u, nil
}

// exchange sends a request and parses the reply into doc. What the reply says is in
// no error: it may hold anything.
func exchange(client *http.Client, req *http.Request, doc *strictjson.Doc) error {
	res, err := client.Do(req)
	if err != nil {
		var address *url.Error // its text has the whole address
		if errors.As(err, &address) {
			err = address.Err
		}
		return fmt.Errorf("ask: %w", err)
	}
	defer func() { _ = res.Body.Close() }()
	if res.StatusCode != http.StatusOK {
		return fmt.Errorf("it answered with status %d", res.StatusCode)
	}
	body, err := io.ReadAll(io.LimitReader(res.Body, onCallReply+1))
	switch {
	case err != nil:
		return fmt.Errorf("read the reply: %w", err)
	case len(body) > onCallReply:
		return errors.New("its reply is too long")
	}
	if err := doc.Parse(string(body)); err != nil {
		return errors.New("its reply is no JSON that can be trusted")
	}
	if doc.Root().Kind() != strictjson.Object {
		return errMalformed
	}
	return nil
}

var errMalformed = errors.New("its reply is not of the form that its schema tells")

var errEndless = fmt.Errorf("it has more than %d pages", onCallPages)

// reply reads members of a reply, and remembers whether one was not as it must be.
type reply struct{ malformed bool }

// text reads a string. One that is absent or null is "", and malformed where it is
// required.
func (r *reply) text(v strictjson.Value, required bool) string {
	switch v.Kind() {
	case strictjson.String:
		return strings.Clone(v.Text())
	case strictjson.Missing, strictjson.Null:
		r.malformed = r.malformed || required
	default:
		r.malformed = true
	}
	return ""
}

// object reads an object; ok is false where there is none.
func (r *reply) object(v strictjson.Value, required bool) (_ strictjson.Value, ok bool) {
	switch v.Kind() {
	case strictjson.Object:
		return v, true
	case strictjson.Missing, strictjson.Null:
		r.malformed = r.malformed || required
	default:
		r.malformed = true
	}
	return strictjson.Value{}, false
}

// list reads a required array.
func (r *reply) list(v strictjson.Value) strictjson.Value {
	if v.Kind() != strictjson.Array {
		r.malformed = true
		return strictjson.Value{}
	}
	return v
}

func (r *reply) err() error {
	if r.malformed {
		return errMalformed
	}
	return nil
}
