package notify_test

import (
	"bytes"
	"context"
	"crypto/hmac"
	"crypto/sha256"
	"encoding/base64"
	"errors"
	"io"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/latchkey-dev/latchkey"
	"github.com/latchkey-dev/latchkey/access"
	"github.com/latchkey-dev/latchkey/notify"
	"github.com/latchkey-dev/latchkey/notify/sandbox"
	"github.com/latchkey-dev/latchkey/tasks"
)

// The test binary is the child that runs a script when it is called as one.
func TestMain(m *testing.M) {
	if len(os.Args) == 2 && os.Args[1] == sandbox.Command {
		os.Exit(sandbox.Main())
	}
	os.Exit(m.Run())
}

func loopback() *notify.Guard {
	return notify.NewGuard(notify.GuardConfig{Allow: []netip.Prefix{netip.MustParsePrefix("127.0.0.0/8")}})
}

func TestTaskPost_IsSignedAndFollowsNothing(t *testing.T) {
	var got *http.Request
	var body []byte
	other := httptest.NewServer(http.HandlerFunc(func(http.ResponseWriter, *http.Request) { t.Error("it was led elsewhere") }))
	defer other.Close()
	s := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		got = r
		body, _ = io.ReadAll(r.Body)
		switch r.URL.Path {
		case "/moved":
			http.Redirect(w, r, other.URL, http.StatusTemporaryRedirect)
		case "/refuse":
			w.WriteHeader(http.StatusConflict)
			_, _ = w.Write(bytes.Repeat([]byte("no\x00\xff"), 1<<16))
		}
	}))
	defer s.Close()
	x := notify.NewTaskExecutor(loopback(), nil)
	defer x.Close()
	at := latchkey.InstantOf(time.Date(2027, 1, 2, 3, 4, 5, 6, time.UTC))
	m := tasks.Message{ID: "run-1", URL: s.URL + "/hook", Key: []byte("key"), At: at, Body: []byte(`{"type":"access_request.approved"}`)}
	if o := x.Post(t.Context(), m); o.Error != "" || o.Result != "HTTP 200" {
		t.Fatalf("%+v", o)
	}
	mac := hmac.New(sha256.New, m.Key)
	mac.Write([]byte("run-1.1798859045." + string(m.Body)))
	if h := got.Header; h.Get("webhook-id") != "run-1" || h.Get("webhook-timestamp") != "1798859045" || h.Get("Content-Type") != "application/json" ||
		h.Get("webhook-signature") != "v1,"+base64.StdEncoding.EncodeToString(mac.Sum(nil)) || !bytes.Equal(body, m.Body) {
		t.Errorf("%v %s", got.Header, body)
	}
	m.URL = s.URL + "/moved"
	if o := x.Post(t.Context(), m); o.Error != "the receiver answered with status 307" {
		t.Errorf("%+v", o)
	}
	m.URL = s.URL + "/refuse"
	if o := x.Post(t.Context(), m); o.Error != "the receiver answered with status 409" || len(o.Output) > 4<<10 {
		t.Errorf("%+v", o)
	}
	// Where it leads inside it is not sent, and nothing is told of what is there.
	m.URL = s.URL + "/hook"
	strict := notify.NewTaskExecutor(notify.NewGuard(notify.GuardConfig{}), nil)
	defer strict.Close()
	got = nil
	if o := strict.Post(t.Context(), m); got != nil || !strings.Contains(o.Error, "not public") || strings.Contains(o.Error, "127.0.0.1") {
		t.Errorf("%+v", o)
	}
}

func TestTaskPost_GivesUpWithItsContext(t *testing.T) {
	held := make(chan struct{})
	s := httptest.NewServer(http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) {
		select {
		case <-held:
		case <-r.Context().Done():
		}
	}))
	defer s.Close()
	defer close(held)
	x := notify.NewTaskExecutor(loopback(), nil)
	defer x.Close()
	ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
	defer cancel()
	if o := x.Post(ctx, tasks.Message{URL: s.URL}); !o.TimedOut || o.Error != "there was no reply in time" {
		t.Errorf("%+v", o)
	}
}

// noSecrets is the host of a script that has none.
type noSecrets struct{}

func (noSecrets) Secret(context.Context, string) (string, error) { return "", errors.New("none") }
func (noSecrets) Approvers(context.Context, string) ([]access.Party, error) {
	return []access.Party{{ID: "p", Email: "e", Name: "n"}}, nil
}

func TestRunScript_RequestsGoThroughTheGuard(t *testing.T) {
	runner := sandbox.New(1)
	if err := runner.Probe(t.Context()); err != nil {
		if os.Getenv("LATCHKEY_REQUIRE_SANDBOX") != "" {
			t.Fatal(err)
		}
		t.Skip(err)
	}
	other := httptest.NewServer(http.HandlerFunc(func(http.ResponseWriter, *http.Request) { t.Error("it was led elsewhere") }))
	defer other.Close()
	s := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		body, _ := io.ReadAll(r.Body)
		switch r.URL.Path {
		case "/moved":
			http.Redirect(w, r, other.URL, http.StatusFound)
		case "/long":
			_, _ = w.Write(make([]byte, sandbox.MaxBody+1))
		default:
			w.Header().Set("X-Seen", r.Method+" "+r.Header.Get("Content-Type"))
			_, _ = w.Write(body)
		}
	}))
	defer s.Close()
	run := func(guard *notify.Guard, statements string) tasks.Outcome {
		t.Helper()
		x := notify.NewTaskExecutor(guard, runner)
		defer x.Close()
		o, err := x.RunScript(t.Context(), tasks.ScriptJob{Config: map[string]string{"url": s.URL}, Host: noSecrets{},
			Script: "package task\nimport (\"net/http\"; \"io\"; \"strings\"; \"strconv\")\nvar _ = strings.ToUpper\nvar _ = strconv.Itoa\nvar _ = io.EOF\nvar url = config.Get(\"url\")\nfunc Run() (string, error) {\n" + statements + "\n}\n"})
		if err != nil {
			t.Fatal(err)
		}
		return o
	}
	const post = `r, err := http.Post(url, "text/plain\r\nX-Evil: 1", strings.NewReader("hello")); if err != nil { return "", err }; b, err := io.ReadAll(r.Body); return string(b) + " " + r.Header.Get("X-Seen"), err`
	if o := run(loopback(), strings.Replace(post, `\r\nX-Evil: 1`, "", 1)); o.Result != "hello POST text/plain" {
		t.Errorf("%+v", o)
	}
	if o := run(loopback(), post); o.Error == "" {
		t.Errorf("a header in a header: %+v", o)
	}
	if o := run(notify.NewGuard(notify.GuardConfig{}), post); !strings.Contains(o.Error, "not public") {
		t.Errorf("%+v", o)
	}
	if o := run(loopback(), `r, err := http.Get(url + "/moved"); return strconv.Itoa(r.StatusCode), err`); o.Result != "302" {
		t.Errorf("%+v", o)
	}
	if o := run(loopback(), `_, err := http.Get(url + "/long"); return "", err`); !strings.Contains(o.Error, "longer than") {
		t.Errorf("%+v", o)
	}
	x := notify.NewTaskExecutor(loopback(), nil)
	defer x.Close()
	if o, err := x.RunScript(t.Context(), tasks.ScriptJob{}); err != nil || o.Error == "" {
		t.Errorf("scripts are off: %+v, %v", o, err)
	}
}
