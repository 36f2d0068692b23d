package client_test

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"testing"
	"time"

	"github.com/latchkey-dev/latchkey/client"
)

var ask = client.ApprovalRequest{
	Petitioners: []client.Petitioner{{ID: "u", Email: "Laura@example.com"}},
	Resources:   []client.Resource{{Kind: "customer", ID: "acme"}},
}

func TestApproval_AsksAndTellsTheOutcome(t *testing.T) {
	var body string
	answer := `{"status":"granted","request_id":"r","grant":{"id":"g","entries":{"customer":[{"f":"acme","p":2}]},"reason":"","not_before":"2026-11-21T22:10:00Z","expires_at":"2026-11-21T23:10:00Z"},"denial":null}`
	c := serve(t, func(w http.ResponseWriter, r *http.Request) {
		text, _ := io.ReadAll(r.Body)
		body = string(text)
		reply(w, http.StatusOK, answer)
	})
	full := ask
	full.Reason, full.Duration, full.Wait = "ticket 7", 90*time.Minute, 2*time.Second
	g, err := c.Approval(t.Context(), full)
	if err != nil || g.ID != "g" || g.ExpiresAt == nil || g.ExpiresAt.Sub(g.NotBefore) != time.Hour {
		t.Errorf("%+v, %v", g, err)
	}
	if want := `{"petitioners":[{"kind":"user","id":"u","email":"Laura@example.com"}],"resources":[{"kind":"customer","id":"acme"}],"reason":"ticket 7","duration":90,"wait":2}`; body != want {
		t.Errorf("sent %s", body)
	}
	for text, want := range map[string]client.Kind{
		`{"status":"waiting","request_id":"r","grant":null,"denial":null}`:                                                     client.Waiting,
		`{"status":"denied","request_id":"r","grant":null,"denial":{"code":"denied_by_approver","detail":"not this quarter"}}`: client.Denied,
		`{"status":"denied","request_id":null,"grant":null,"denial":{"code":"not_allowed","detail":""}}`:                       client.Denied,
		`{"status":"granted","request_id":"r","grant":null}`:                                                                   client.Unknown,
		`{"status":"approved"}`: client.Unknown,
		`{}`:                    client.Unknown,
		`null`:                  client.Unknown,
	} {
		answer = text
		if g, err := c.Approval(t.Context(), ask); err == nil || client.ErrorKind(err) != want || g.ID != "" {
			t.Errorf("%s: %+v, %v", text, g, err)
		}
	}
}

func TestApproval_RefusesWhatItCannotSay(t *testing.T) {
	c := serve(t, func(http.ResponseWriter, *http.Request) { t.Error("it was asked") })
	for _, change := range []func(*client.ApprovalRequest){
		func(a *client.ApprovalRequest) { a.Duration = 90 * time.Second },
		func(a *client.ApprovalRequest) { a.Duration = -time.Minute },
		func(a *client.ApprovalRequest) { a.Wait = 1500 * time.Millisecond },
		func(a *client.ApprovalRequest) { a.Wait = -time.Second },
	} {
		a := ask
		change(&a)
		if _, err := c.Approval(t.Context(), a); err == nil {
			t.Errorf("%+v is taken", a)
		}
	}
}

func TestApproval_WaitsLongerThanOneCallMay(t *testing.T) {
	var waits []int
	c := serve(t, func(w http.ResponseWriter, r *http.Request) {
		var in struct{ Wait int }
		_ = json.NewDecoder(r.Body).Decode(&in)
		waits = append(waits, in.Wait)
		reply(w, http.StatusOK, `{"status":"waiting","request_id":"r"}`)
	})
	a := ask
	a.Wait = 130 * time.Second
	if _, err := c.Approval(t.Context(), a); client.ErrorKind(err) != client.Waiting || fmt.Sprint(waits) != "[60 60 10]" {
		t.Errorf("%v, waited %v", err, waits)
	}
}

// selfish wraps itself; endless wraps itself twice, which no bound on depth alone
// would end.
type selfish struct{ error }

func (e selfish) Unwrap() error { return e }

type endless struct{ error }

func (e endless) Unwrap() []error { return []error{e, e} }

type broken struct{ cause *broken }

func (b *broken) Error() string { return "broken" }
func (b *broken) Unwrap() error { return b.cause.cause }

func TestErrorKind_IsTotal(t *testing.T) {
	waiting := &client.ApprovalError{Kind: client.Waiting, RequestID: "r"}
	var none *client.ApprovalError
	for _, tt := range []struct {
		err  error
		want client.Kind
	}{
		{nil, client.Unknown},
		{errors.New("waiting"), client.Unknown},
		{waiting, client.Waiting},
		{&client.ApprovalError{Kind: client.Denied}, client.Denied},
		{&client.ApprovalError{}, client.Unknown},
		{&client.ApprovalError{Kind: "granted"}, client.Unknown},
		{none, client.Unknown},
		{fmt.Errorf("ask: %w", waiting), client.Waiting},
		{errors.Join(io.EOF, fmt.Errorf("ask: %w", waiting)), client.Waiting},
		{&client.Problem{Status: 403, Code: "denied"}, client.Unknown},
		{selfish{}, client.Unknown},
		{endless{}, client.Unknown},
		{&broken{}, client.Unknown},
		{(*broken)(nil), client.Unknown},
	} {
		if got := client.ErrorKind(tt.err); got != tt.want {
			t.Errorf("%T: %s, want %s", tt.err, got, tt.want)
		}
	}
}
