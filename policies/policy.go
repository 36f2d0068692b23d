package policies

import (
	"github.com/latchkey-dev/latchkey"
)

// Policy is one version of a document, compiled. Immutable, safe for
// concurrent use.
type Policy struct {
	Document *Document
	Version  int64
	// Record is the id of the record that it is a version of, "" where there is
	// none; a policy that is made again under an old name has another one.
	Record  string
	Reads   Reads
	program program
}

// Reads is what an evaluation may look at beyond the question itself; it may
// claim too much, never too little.
type Reads struct {
	Time               bool     // the answer holds for this instant only
	Metadata           bool     // of the subject's access key
	SubjectProperties  bool     // stored ones
	ResourceProperties bool     // stored ones
	Grants             bool     // the grants, be it only their number
	Sets               []string // names, sorted, each once
}

// Result is what a policy answers.
type Result struct {
	Permit bool
	Action string // "allow", "deny", or the author's word
	Rule   string // label of the CEL rule that matched, "" of none
	// Default says that no CEL rule matched.
	Default     bool
	Obligations string // JSON array of objects; "" is none
	Reasons     string // JSON array, a Rego policy's own; "" is none
}

// Trace tells of one rule that was looked at.
type Trace struct {
	Rule    string
	Matched bool
	Why     string // "matched", "did not match", "not reached", or the error
}

// program is a compiled document.
type program interface {
	// evaluate answers one question. Whatever it returns with an error is not
	// used: the error denies.
	evaluate(s *Snapshot, in *Input) (Result, error)
	// trace tells of every rule, in order; nil where the language has none.
	trace(s *Snapshot, in *Input) []Trace
	// setAt is the place that reads a set first.
	setAt(name string) place
}

// place is a place in a document: a pointer to a text, and where in it.
type place struct {
	pointer      string
	line, column int // from 1
}

// Evaluate answers one question with the sets of s. It is bounded in time (50
// ms), cost and size of the result; an error, which is always an
// *EvaluationError, is a deny.
func (p *Policy) Evaluate(s *Snapshot, in *Input) (Result, error) { return p.program.evaluate(s, in) }

// Trace tells of every rule of a CEL policy, as Evaluate would look at them.
func (p *Policy) Trace(s *Snapshot, in *Input) []Trace { return p.program.trace(s, in) }

// MissingSets are the faults of a policy that reads sets that are not there,
// each at the place that reads the set first.
func (p *Policy) MissingSets(names []string) []latchkey.Fault {
	faults := make([]latchkey.Fault, len(names))
	for i, name := range names {
		at := p.program.setAt(name)
		faults[i] = latchkey.Fault{Pointer: at.pointer, Code: "set_not_found", Detail: "there is no set " + name, Line: at.line, Column: at.column}
	}
	return faults
}

// Failure says, for programs, why an evaluation failed.
type Failure string

const (
	Undefined  Failure = "undefined"   // no answer
	TwoResults Failure = "two_results" // or one of the wrong type
	Failed     Failure = "error"       // an error of the language
	TooCostly  Failure = "too_costly"  // over its cost or the size of a result
	Deadline   Failure = "deadline"    // over its time
	Busy       Failure = "busy"        // no turn came within its time
	UnknownSet Failure = "unknown_set" // a set that is not there any more
	Unusable   Failure = "unusable"    // a stored document that does not compile
)

// Failures lists them all.
func Failures() []Failure {
	return []Failure{Undefined, TwoResults, Failed, TooCostly, Deadline, Busy, UnknownSet, Unusable}
}

// EvaluationError is why an evaluation came to nothing. Its detail is for the
// policy's author: it may quote the policy, and never values of the question.
type EvaluationError struct {
	Failure Failure
	Rule    string // label of the CEL rule, where one is known
	Detail  string
}

func (e *EvaluationError) Error() string {
	text := string(e.Failure)
	if e.Rule != "" {
		text += " in rule " + e.Rule
	}
	if e.Detail != "" {
		text += ": " + e.Detail
	}
	return text
}

// compilers by language. A compiler's error is Invalid with faults that carry
// a pointer into the document, a line and a column.
var compilers = map[Language]func(*Document) (program, Reads, error){}

// Compile compiles a document alone, without regard to other policies. Its
// errors are Invalid, with a pointer, line and column.
func Compile(d *Document, version int64) (*Policy, error) {
	compile, ok := compilers[d.Language]
	if !ok {
		return nil, latchkey.InvalidFaults(latchkey.Fault{Pointer: "/language", Code: "unknown_language", Detail: "want cel or rego"})
	}
	prog, reads, err := compile(d)
	if err != nil {
		return nil, err
	}
	return &Policy{Document: d, Version: version, Reads: reads, program: prog}, nil
}

// Broken stands for a stored document that no longer compiles: whoever asks it
// is denied, and nobody falls back to another policy.
func Broken(d *Document, version int64, cause error) *Policy {
	return &Policy{Document: d, Version: version, program: broken{cause.Error()}}
}

type broken struct{ cause string }

func (b broken) evaluate(*Snapshot, *Input) (Result, error) {
	return Result{}, &EvaluationError{Failure: Unusable, Detail: b.cause}
}

func (broken) trace(*Snapshot, *Input) []Trace { return nil }

func (broken) setAt(string) place { return place{} }
