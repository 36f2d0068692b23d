package latchkey

import (
	"errors"
	"fmt"
	"strings"
)

// Kind says, for programs, what sort of failure an [Error] is. The zero Kind
// is Internal: an error nobody classified says nothing to the outside.
type Kind uint8

const (
	Internal           Kind = iota // could not answer; a fault of ours
	Invalid                        // the request is wrong; Faults say where
	Unauthenticated                // no credential, or none that holds
	Forbidden                      // a valid credential that may not do this
	NotFound                       // nothing there that the caller may see
	Conflict                       // the record's state does not allow it
	TooLarge                       // the body is over its limit
	UnsupportedMedia               // the body is not of a type we read
	Unprocessable                  // well-formed, but contradicts an earlier call
	TooManyRequests                // slow down
	LimitReached                   // the customer has as many as it may have
	Unavailable                    // cannot answer now; try again
	MethodNotAllowed               // the resource exists, the verb does not
	PreconditionFailed             // If-Match and its like did not hold
	TaskFailed                     // what had to succeed first did not
	TaskTimeout                    // what had to succeed first took too long
)

// Fault is one thing wrong with a request. Pointer is an RFC 6901 JSON
// pointer into the body, or empty for the whole of it; for what is not in the
// body it names the place ("query:limit", "header:Prefer"). Line and Column,
// both from 1, say where in a text that is itself a program; 0 where they mean
// nothing.
type Fault struct {
	Pointer string `json:"pointer"`
	Code    string `json:"code"`
	Detail  string `json:"detail"`
	Line    int    `json:"line,omitempty"`
	Column  int    `json:"column,omitempty"`
}

// Error is how every refusal and failure travels between rooms. Code is for
// programs (snake_case, stable), Public for people, and neither ever holds a
// secret, SQL or an internal address; the cause is for logs alone.
type Error struct {
	Kind   Kind
	Code   string
	Public string
	Faults []Fault
	cause  error
}

// Errorf makes an Error whose public text is formatted from args. Nothing
// that is not meant for the caller's eyes may be among them.
func Errorf(kind Kind, code, format string, args ...any) *Error {
	return &Error{Kind: kind, Code: code, Public: fmt.Sprintf(format, args...)}
}

// InvalidFaults makes an Invalid error of one or more faults; its code and
// text are those of the first.
func InvalidFaults(faults ...Fault) *Error {
	e := &Error{Kind: Invalid, Code: "invalid_request", Public: "the request is invalid", Faults: faults}
	if len(faults) > 0 {
		e.Code = faults[0].Code
		e.Public = faults[0].Detail
		if faults[0].Pointer != "" {
			e.Public = faults[0].Pointer + ": " + e.Public
		}
	}
	return e
}

// Because attaches a cause for the log and returns e.
func (e *Error) Because(cause error) *Error {
	e.cause = cause
	return e
}

// Error is for logs: it includes the cause.
func (e *Error) Error() string {
	var b strings.Builder
	b.WriteString(e.Code)
	b.WriteString(": ")
	b.WriteString(e.Public)
	if e.cause != nil {
		b.WriteString(": ")
		b.WriteString(e.cause.Error())
	}
	return b.String()
}

func (e *Error) Unwrap() error { return e.cause }

// KindOf returns the kind of the first Error in err's chain, Internal if there
// is none.
func KindOf(err error) Kind {
	if e, ok := errors.AsType[*Error](err); ok {
		return e.Kind
	}
	return Internal
}

// CodeOf returns the code of the first Error in err's chain, "" if none.
func CodeOf(err error) string {
	if e, ok := errors.AsType[*Error](err); ok {
		return e.Code
	}
	return ""
}
