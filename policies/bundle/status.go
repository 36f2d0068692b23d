package bundle

import (
	"maps"
	"time"

	"github.com/latchkey-dev/latchkey"
)

// Status is how a puller's bundle stands, in the words of OPA's status
// reports. Times are zero where the thing has not happened.
type Status struct {
	Name     string `json:"name"`
	Customer string `json:"customer"`
	// Source is the URL without user, query and fragment, or the file.
	Source         string `json:"source"`
	ActiveRevision string `json:"active_revision"`
	ActiveETag     string `json:"active_etag"`
	ActiveSequence int64  `json:"active_sequence,omitempty"`
	Signed         bool   `json:"signed"`

	LastRequest              time.Time `json:"last_request,omitzero"`
	LastSuccessfulRequest    time.Time `json:"last_successful_request,omitzero"`
	LastSuccessfulDownload   time.Time `json:"last_successful_download,omitzero"`
	LastSuccessfulActivation time.Time `json:"last_successful_activation,omitzero"`

	// Code, Message and Errors tell of the last attempt; empty when it went
	// well.
	Code    string           `json:"code,omitempty"`
	Message string           `json:"message,omitempty"`
	Errors  []latchkey.Fault `json:"errors,omitempty"`
}

// Counters are a puller's totals since it was made, ready for metrics.
type Counters struct {
	Requests    uint64
	NotModified uint64
	Downloads   uint64 // bundles received whole
	Activations uint64
	Bytes       uint64            // compressed, received
	Failures    map[string]uint64 // by code
	// Size and Sequence are those of the bundle in force, and ActivatedAt when
	// it came into force; zero without one.
	Size        int
	Sequence    int64
	ActivatedAt time.Time
}

// Status returns a copy; it may be called at any time.
func (p *Puller) Status() Status {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.status
}

// Counters returns a copy; it may be called at any time.
func (p *Puller) Counters() Counters {
	p.mu.Lock()
	defer p.mu.Unlock()
	c := p.counters
	c.Failures = maps.Clone(c.Failures)
	return c
}

// note changes status and counters together.
func (p *Puller) note(change func(*Status, *Counters)) {
	p.mu.Lock()
	defer p.mu.Unlock()
	change(&p.status, &p.counters)
}

// failed notes why the last attempt came to nothing. The cause stays in the
// log: it may name an address.
func (p *Puller) failed(err error) {
	code, message := latchkey.CodeOf(err), ""
	if e, ok := asError(err); ok {
		message = e.Public
	} else {
		code, message = CodeActivationFailed, "the bundle could not be put into force"
	}
	p.note(func(s *Status, c *Counters) {
		s.Code, s.Message, s.Errors = code, message, nil
		if e, ok := asError(err); ok {
			s.Errors = e.Faults
		}
		c.Failures[code]++
	})
}
