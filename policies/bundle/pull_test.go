package bundle_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/latchkey-dev/latchkey"
	"github.com/latchkey-dev/latchkey/policies/bundle"
)

// wire is a network of one server, in memory, so that a test's clock can run
// ahead of it.
type wire struct {
	conns chan net.Conn
	done  chan struct{}
	once  sync.Once
	mu    sync.Mutex
	to    []string // addresses that were dialled
}

func newWire() *wire { return &wire{conns: make(chan net.Conn), done: make(chan struct{})} }

func (w *wire) dial(ctx context.Context, _, address string) (net.Conn, error) {
	w.mu.Lock()
	w.to = append(w.to, address)
	w.mu.Unlock()
	near, far := net.Pipe()
	select {
	case w.conns <- far:
		return near, nil
	case <-w.done:
		return nil, errors.New("connection refused")
	case <-ctx.Done():
		return nil, ctx.Err()
	}
}

func (w *wire) Accept() (net.Conn, error) {
	select {
	case c := <-w.conns:
		return c, nil
	case <-w.done:
		return nil, net.ErrClosed
	}
}

func (w *wire) Close() error   { w.once.Do(func() { close(w.done) }); return nil }
func (w *wire) Addr() net.Addr { return &net.TCPAddr{} }

// rig is a puller with a server; it runs inside a bubble of synctest.
type rig struct {
	t        *testing.T
	wire     *wire
	puller   *bundle.Puller
	mu       sync.Mutex
	requests []*http.Request
	at       []time.Duration // when they came, from the start
	active   []*bundle.Bundle
	refuse   error // what Activate answers
	stop     func()
}

func newRig(t *testing.T, handler http.HandlerFunc, change func(*bundle.Config)) *rig {
	t.Helper()
	r := &rig{t: t, wire: newWire()}
	start := time.Now()
	var handlers sync.WaitGroup
	server := &http.Server{Handler: http.HandlerFunc(func(w http.ResponseWriter, req *http.Request) {
		r.mu.Lock()
		r.requests = append(r.requests, req)
		r.at = append(r.at, time.Since(start))
		r.mu.Unlock()
		handlers.Add(1)
		defer handlers.Done()
		handler(w, req)
	}), ErrorLog: nil}
	served := make(chan struct{})
	go func() { defer close(served); _ = server.Serve(r.wire) }()
	cfg := bundle.Config{
		Customer: "acme", Source: "http://bundles.test/acme.tar.gz", Dial: r.wire.dial, Dir: filepath.Join(t.TempDir(), "b"),
		Now: time.Now, Jitter: func() float64 { return 0.5 }, Log: slog.New(slog.DiscardHandler),
		Activate: func(_ context.Context, b *bundle.Bundle) error {
			if r.refuse != nil {
				return r.refuse
			}
			r.active = append(r.active, b)
			return nil
		},
	}
	if change != nil {
		change(&cfg)
	}
	p, err := bundle.NewPuller(cfg)
	if err != nil {
		t.Fatal(err)
	}
	r.puller = p
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan struct{})
	go func() { defer close(done); p.Run(ctx) }()
	r.stop = sync.OnceFunc(func() {
		cancel()
		<-done
		_ = server.Close()
		_ = r.wire.Close()
		<-served
		handlers.Wait()
	})
	t.Cleanup(r.stop)
	return r
}

// wait lets time pass until everybody waits for more of it. The mutex orders
// what the test did before with what handlers do then.
func (r *rig) wait(d time.Duration) {
	r.mu.Lock()
	r.mu.Unlock() //nolint:staticcheck // see above
	time.Sleep(d)
	synctest.Wait()
}

func (r *rig) code(want string) {
	r.t.Helper()
	if s := r.puller.Status(); s.Code != want {
		r.t.Errorf("status %q %q, want %q", s.Code, s.Message, want)
	}
}

// tagged serves raw under a tag.
func tagged(w http.ResponseWriter, req *http.Request, raw []byte) {
	tag := bundle.ETag(raw)
	w.Header().Set("ETag", tag)
	if req.Header.Get("If-None-Match") == tag {
		w.WriteHeader(http.StatusNotModified)
		return
	}
	_, _ = w.Write(raw)
}

func sequence(t testing.TB, n int64) []byte {
	in := exampleInput()
	in.Sequence = n
	return build(t, in, bundle.ProfileLatchkey, nil).Raw
}

func TestPuller_ActivatesWhatIsNewAndPollsWithJitter(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		raw := sequence(t, 1)
		r := newRig(t, func(w http.ResponseWriter, req *http.Request) { tagged(w, req, raw) }, nil)
		synctest.Wait()
		s := r.puller.Status()
		if len(r.active) != 1 || s.ActiveRevision != "1" || s.ActiveETag != bundle.ETag(raw) || s.Code != "" || s.LastSuccessfulActivation.IsZero() {
			t.Fatalf("got %+v", s)
		}
		r.wait(89 * time.Second)
		if len(r.requests) != 1 {
			t.Error("polled before its time")
		}
		r.wait(2 * time.Second) // 60 s + half of 60 s
		if len(r.requests) != 2 || r.requests[0].Header.Get("If-None-Match") != "" || r.requests[1].Header.Get("If-None-Match") != bundle.ETag(raw) {
			t.Errorf("requests %d", len(r.requests))
		}
		raw = sequence(t, 2)
		r.puller.Trigger()
		synctest.Wait()
		if len(r.active) != 2 || r.active[1].Origin.Sequence != 2 {
			t.Errorf("active %d", len(r.active))
		}
		c := r.puller.Counters()
		if c.Requests != 3 || c.NotModified != 1 || c.Downloads != 2 || c.Activations != 2 || c.Sequence != 2 || c.Size != len(raw) || len(c.Failures) != 0 {
			t.Errorf("counters %+v", c)
		}
		if got := r.requests[0].Header.Get("Prefer"); got != "modes=snapshot" {
			t.Errorf("Prefer: %s", got)
		}
		r.stop()
	})
}

func TestPuller_LongPollsAServerThatCan(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		raw := sequence(t, 1)
		changed := make(chan struct{}, 1)
		r := newRig(t, func(w http.ResponseWriter, req *http.Request) {
			w.Header().Set("Content-Type", "application/vnd.openpolicyagent.bundles")
			if strings.Contains(req.Header.Get("Prefer"), "wait=300") {
				select {
				case <-changed:
				case <-time.After(300 * time.Second):
				case <-req.Context().Done():
				}
			}
			tagged(w, req, raw)
		}, nil)
		r.wait(2 * time.Second)
		raw = sequence(t, 2)
		changed <- struct{}{}
		synctest.Wait()
		if len(r.active) != 2 {
			t.Fatalf("%d bundles came into force: %+v", len(r.active), r.puller.Status())
		}
		r.wait(1199 * time.Second)
		if n := len(r.requests); n != 6 {
			t.Errorf("%d requests in twenty minutes: %v", n, r.at)
		}
		r.code("")
		r.stop()
	})
}

// A server that promises to wait and does not must not be asked in a circle.
func TestPuller_DoesNotSpinOnAServerThatAnswersAtOnce(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		raw := sequence(t, 1)
		r := newRig(t, func(w http.ResponseWriter, req *http.Request) {
			w.Header().Set("Content-Type", "application/vnd.openpolicyagent.bundles")
			tagged(w, req, raw)
		}, nil)
		r.wait(10 * time.Minute)
		if n := len(r.requests); n > 9 {
			t.Errorf("%d requests in ten minutes", n)
		}
		r.stop()
	})
	synctest.Test(t, func(t *testing.T) {
		n := int64(0)
		r := newRig(t, func(w http.ResponseWriter, req *http.Request) {
			w.Header().Set("Content-Type", "application/vnd.openpolicyagent.bundles")
			n++
			tagged(w, req, sequence(t, n)) // always something new
		}, nil)
		r.wait(30 * time.Second)
		if n := len(r.requests); n > 32 {
			t.Errorf("%d requests in half a minute", n)
		}
		r.stop()
	})
}

func TestPuller_BacksOffAfterFailures(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var down atomic.Bool
		down.Store(true)
		r := newRig(t, func(w http.ResponseWriter, req *http.Request) {
			if down.Load() {
				w.WriteHeader(http.StatusServiceUnavailable)
				return
			}
			tagged(w, req, sequence(t, 1))
		}, nil)
		r.wait(30 * time.Minute)
		r.code(bundle.CodeUnexpectedStatus)
		var gaps []time.Duration
		for i := range r.at[1:] {
			gaps = append(gaps, (r.at[i+1] - r.at[i]).Round(time.Millisecond))
		}
		if gaps[0] != 750*time.Millisecond || gaps[1] != 1500*time.Millisecond || slices.Max(gaps) != 90*time.Second {
			t.Errorf("gaps %v", gaps)
		}
		down.Store(false)
		r.wait(2 * time.Minute)
		r.code("")
		down.Store(true)
		before := len(r.at)
		r.wait(92 * time.Second)
		if gap := r.at[before+1] - r.at[before]; gap.Round(time.Millisecond) != 750*time.Millisecond {
			t.Errorf("after a success it backs off by %v", gap)
		}
		r.stop()
	})
}

// Servers that mean harm: each is given up on in bounded time and memory, and
// what is in force stays.
func TestPuller_GivesUpOnBadServers(t *testing.T) {
	good := sequence(t, 1)
	hijack := func(w http.ResponseWriter, text string) {
		c, _, err := w.(http.Hijacker).Hijack()
		if err != nil {
			panic(err)
		}
		_, _ = io.WriteString(c, text)
		_ = c.Close()
	}
	for name, c := range map[string]struct {
		serve  http.HandlerFunc
		within time.Duration
		code   string
	}{
		"hangs before it answers": {func(_ http.ResponseWriter, req *http.Request) { <-req.Context().Done() }, 31 * time.Second, bundle.CodeTimeout},
		"hangs in the middle": {func(w http.ResponseWriter, req *http.Request) {
			_, _ = w.Write(good[:100])
			w.(http.Flusher).Flush()
			<-req.Context().Done()
		}, 31 * time.Second, bundle.CodeTimeout},
		"trickles": {func(w http.ResponseWriter, req *http.Request) {
			for i := range good {
				if _, err := w.Write(good[i : i+1]); err != nil || req.Context().Err() != nil {
					return
				}
				w.(http.Flusher).Flush()
				time.Sleep(20 * time.Second)
			}
		}, 5*time.Minute + time.Second, bundle.CodeTimeout},
		"promises more than it sends": {func(w http.ResponseWriter, _ *http.Request) {
			hijack(w, "HTTP/1.1 200 OK\r\nContent-Length: 100000\r\n\r\n"+string(good))
		}, time.Second, bundle.CodeRequestFailed},
		"promises less than it sends": {func(w http.ResponseWriter, _ *http.Request) {
			hijack(w, fmt.Sprintf("HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n%s", len(good)-20, good))
		}, time.Second, bundle.CodeNotABundle},
		"promises too much": {func(w http.ResponseWriter, _ *http.Request) {
			w.Header().Set("Content-Length", "99999999999")
			w.WriteHeader(http.StatusOK)
		}, time.Second, bundle.CodeTooBig},
		"never ends": {func(w http.ResponseWriter, _ *http.Request) {
			for chunk := bytes.Repeat([]byte("x"), 1<<16); ; {
				if _, err := w.Write(chunk); err != nil {
					return
				}
			}
		}, time.Second, bundle.CodeTooBig},
		"breaks off": {func(w http.ResponseWriter, _ *http.Request) {
			hijack(w, "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nffff\r\nx")
		}, time.Second, bundle.CodeRequestFailed},
		"says 304 to nothing": {func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(http.StatusNotModified) }, time.Second, ""},
		"sends a login page":  {func(w http.ResponseWriter, _ *http.Request) { _, _ = io.WriteString(w, "<html>") }, time.Second, bundle.CodeNotABundle},
		"redirects elsewhere": {func(w http.ResponseWriter, req *http.Request) {
			http.Redirect(w, req, "http://169.254.169.254/latest", http.StatusFound)
		}, time.Second, bundle.CodeRedirectRefused},
		"redirects in a circle": {func(w http.ResponseWriter, req *http.Request) {
			http.Redirect(w, req, "/acme.tar.gz", http.StatusFound)
		}, time.Second, bundle.CodeRedirectRefused},
		"answers 500":     {func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(http.StatusInternalServerError) }, time.Second, bundle.CodeUnexpectedStatus},
		"answers nothing": {func(http.ResponseWriter, *http.Request) {}, time.Second, ""},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				first := true
				r := newRig(t, func(w http.ResponseWriter, req *http.Request) {
					if first {
						first = false
						tagged(w, req, good)
						return
					}
					c.serve(w, req)
				}, func(cfg *bundle.Config) { cfg.Limits.Size = 1 << 20 })
				synctest.Wait()
				if len(r.active) != 1 {
					t.Fatalf("the good one was not taken: %+v", r.puller.Status())
				}
				r.puller.Trigger()
				r.wait(c.within)
				r.code(c.code)
				if len(r.active) != 1 || r.puller.Status().ActiveETag != bundle.ETag(good) {
					t.Error("the good one is no longer in force")
				}
				if slices.ContainsFunc(r.wire.to, func(to string) bool { return to != "bundles.test:80" }) {
					t.Errorf("dialled %v", r.wire.to)
				}
				r.stop()
			})
		})
	}
}

func TestPuller_KeepsTheGoodBundleWhenABadOneComes(t *testing.T) {
	signer, key := newSigner(t, "k", "")
	signed := func(change func(*bundle.Input)) []byte {
		in := exampleInput()
		change(&in)
		return build(t, in, bundle.ProfileLatchkey, signer).Raw
	}
	good := signed(func(*bundle.Input) {})
	stranger, _ := newSigner(t, "k", "")
	for name, c := range map[string]struct {
		raw    []byte
		refuse error
		code   string
	}{
		"tampered": {repack(t, good, func(name, text string) (string, bool) {
			return strings.Replace(text, "10.0.0.0/8", "0.0.0.0/0", 1), true
		}), nil, bundle.CodeSignatureInvalid},
		"unsigned":            {sequence(t, 99), nil, bundle.CodeSignatureMissing},
		"another's signature": {build(t, func() bundle.Input { in := exampleInput(); in.Sequence = 99; return in }(), bundle.ProfileLatchkey, stranger).Raw, nil, bundle.CodeSignatureInvalid},
		"another customer's":  {signed(func(in *bundle.Input) { in.Customer, in.Sequence = "globex", 99 }), nil, bundle.CodeWrongCustomer},
		"replayed":            {signed(func(in *bundle.Input) { in.Sequence = 40 }), nil, bundle.CodeOlderSequence},
		"does not compile": {signed(func(in *bundle.Input) { in.Sequence = 99 }),
			latchkey.InvalidFaults(latchkey.Fault{Pointer: "/policies/main/rego", Code: "rego_parse_error", Detail: "3:1: unexpected token"}), "rego_parse_error"},
		"engine fails":    {signed(func(in *bundle.Input) { in.Sequence = 99 }), errors.New("secret detail"), bundle.CodeActivationFailed},
		"delta":           {archive(t, entry{name: "/patch.json", text: `{}`}), nil, bundle.CodeDeltaNotSupported},
		"system's policy": {archive(t, entry{name: "a.rego", text: "package system.authz"}), nil, bundle.CodeSignatureMissing},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				raw := good
				r := newRig(t, func(w http.ResponseWriter, req *http.Request) { tagged(w, req, raw) }, func(cfg *bundle.Config) {
					cfg.Keys = mustKeys(t, "", "", key)
				})
				synctest.Wait()
				raw, r.refuse = c.raw, c.refuse
				r.puller.Trigger()
				synctest.Wait()
				s := r.puller.Status()
				if len(r.active) != 1 || s.ActiveETag != bundle.ETag(good) || s.ActiveRevision != "41" {
					t.Errorf("the good one is no longer in force: %+v", s)
				}
				r.code(c.code)
				if strings.Contains(s.Message, "secret") {
					t.Error("the cause is shown")
				}
				if name == "does not compile" && (len(s.Errors) != 1 || s.Errors[0].Pointer != "/policies/main/rego") {
					t.Errorf("errors %v", s.Errors)
				}
				r.puller.Trigger()
				synctest.Wait()
				if tag := r.requests[2].Header.Get("If-None-Match"); tag != bundle.ETag(good) {
					t.Errorf("asked with the tag %s of what is not in force", tag)
				}
				raw, r.refuse = signed(func(in *bundle.Input) { in.Sequence = 100 }), nil
				r.puller.Trigger()
				synctest.Wait()
				r.code("")
				if len(r.active) != 2 {
					t.Error("a good one after a bad one was not taken")
				}
				r.stop()
			})
		})
	}
}

func TestPuller_StartsColdFromTheLastGoodBundle(t *testing.T) {
	signer, key := newSigner(t, "k", "")
	raw := build(t, exampleInput(), bundle.ProfileLatchkey, signer).Raw
	dir := filepath.Join(t.TempDir(), "state")
	config := func(cfg *bundle.Config) { cfg.Dir, cfg.Keys = dir, mustKeys(t, "", "", key) }
	down := func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(http.StatusBadGateway) }
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t, func(w http.ResponseWriter, req *http.Request) { tagged(w, req, raw) }, config)
		synctest.Wait()
		r.stop()
	})
	for _, name := range []string{"bundle.tar.gz", "bundle.json"} {
		if info, err := os.Stat(filepath.Join(dir, name)); err != nil || info.Mode().Perm() != 0o600 {
			t.Errorf("%s: %v %v", name, info, err)
		}
	}
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t, down, config)
		synctest.Wait()
		if len(r.active) != 1 || r.requests[0].Header.Get("If-None-Match") != bundle.ETag(raw) {
			t.Errorf("not cold: %+v", r.puller.Status())
		}
		r.code(bundle.CodeUnexpectedStatus)
		r.stop()
	})
	// From another source it is used all the same, but proves nothing of that
	// source's tags and sequences.
	synctest.Test(t, func(t *testing.T) {
		older := build(t, func() bundle.Input { in := exampleInput(); in.Sequence = 3; return in }(), bundle.ProfileLatchkey, signer).Raw
		r := newRig(t, func(w http.ResponseWriter, req *http.Request) { tagged(w, req, older) }, func(cfg *bundle.Config) {
			config(cfg)
			cfg.Dir = copyDir(t, dir)
			cfg.Source = "http://other.test/x"
		})
		synctest.Wait()
		if r.requests[0].Header.Get("If-None-Match") != "" || len(r.active) != 2 {
			t.Errorf("active %d, %+v", len(r.active), r.puller.Status())
		}
		r.stop()
	})
	// A replay across a restart.
	synctest.Test(t, func(t *testing.T) {
		older := build(t, func() bundle.Input { in := exampleInput(); in.Sequence = 3; return in }(), bundle.ProfileLatchkey, signer).Raw
		r := newRig(t, func(w http.ResponseWriter, req *http.Request) { tagged(w, req, older) }, config)
		synctest.Wait()
		r.code(bundle.CodeOlderSequence)
		r.stop()
	})
	// A note that belongs to another bundle is not believed.
	write(t, dir, map[string]string{"bundle.json": `{"source":"http://bundles.test/acme.tar.gz","etag":"\"newer\"","sha256":"00"}`})
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t, down, config)
		synctest.Wait()
		if len(r.active) != 1 || r.requests[0].Header.Get("If-None-Match") != "" {
			t.Error("the note was believed")
		}
		r.stop()
	})
	// The disk is no more trusted than the network.
	write(t, dir, map[string]string{"bundle.tar.gz": string(sequence(t, 99))})
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t, down, config)
		synctest.Wait()
		if len(r.active) != 0 {
			t.Error("an unsigned bundle from the disk came into force")
		}
		if c := r.puller.Counters(); c.Failures[bundle.CodeSignatureMissing] != 1 {
			t.Errorf("counters %+v", c)
		}
		r.stop()
	})
}

func copyDir(t *testing.T, from string) string {
	t.Helper()
	to := t.TempDir()
	if err := os.CopyFS(to, os.DirFS(from)); err != nil {
		t.Fatal(err)
	}
	return to
}

// A disk that is full or gone costs the next cold start, not the bundle.
func TestPuller_TriesAgainToKeepWhatTheDiskRefused(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		dir := filepath.Join(t.TempDir(), "state")
		write(t, filepath.Dir(dir), map[string]string{"state": "a file in the way"})
		r := newRig(t, func(w http.ResponseWriter, req *http.Request) { tagged(w, req, sequence(t, 1)) }, func(cfg *bundle.Config) { cfg.Dir = dir })
		synctest.Wait()
		r.code(bundle.CodePersistFailed)
		if len(r.active) != 1 {
			t.Error("it is not in force")
		}
		if err := os.Remove(dir); err != nil {
			t.Fatal(err)
		}
		r.wait(2 * time.Minute)
		r.code("")
		if _, err := os.Stat(filepath.Join(dir, "bundle.tar.gz")); err != nil {
			t.Error(err)
		}
		r.stop()
	})
}

func TestPuller_SendsItsTokenToItsServerAlone(t *testing.T) {
	t.Setenv("HTTP_PROXY", "http://proxy.test:3128")
	t.Setenv("http_proxy", "http://proxy.test:3128")
	synctest.Test(t, func(t *testing.T) {
		file := filepath.Join(t.TempDir(), "token")
		write(t, filepath.Dir(file), map[string]string{"token": "one\n"})
		r := newRig(t, func(w http.ResponseWriter, req *http.Request) {
			if req.URL.Path != "/moved" {
				http.Redirect(w, req, "/moved", http.StatusTemporaryRedirect)
				return
			}
			tagged(w, req, sequence(t, 1))
		}, func(cfg *bundle.Config) { cfg.Token, cfg.AllowInsecure = bundle.TokenFile(file), true })
		synctest.Wait()
		if len(r.active) != 1 || r.requests[1].Header.Get("Authorization") != "Bearer one" {
			t.Errorf("status %+v", r.puller.Status())
		}
		write(t, filepath.Dir(file), map[string]string{"token": "two\n"}) // rotated
		r.puller.Trigger()
		synctest.Wait()
		if got := r.requests[2].Header.Get("Authorization"); got != "Bearer two" {
			t.Errorf("sent %q", got)
		}
		if err := os.Remove(file); err != nil {
			t.Fatal(err)
		}
		r.puller.Trigger()
		synctest.Wait()
		r.code(bundle.CodeCredential)
		if slices.ContainsFunc(r.wire.to, func(to string) bool { return to != "bundles.test:80" }) {
			t.Errorf("dialled %v", r.wire.to)
		}
		r.stop()
	})
}

func TestPuller_ReadsAFile(t *testing.T) {
	path := filepath.Join(t.TempDir(), "b.tar.gz")
	for _, source := range []string{path, "file://" + path} {
		synctest.Test(t, func(t *testing.T) {
			write(t, filepath.Dir(path), map[string]string{"b.tar.gz": string(archive(t, policy("a")))})
			r := newRig(t, nil, func(cfg *bundle.Config) { cfg.Source = source })
			synctest.Wait()
			r.wait(5 * time.Minute)
			if c := r.puller.Counters(); len(r.active) != 1 || c.NotModified != 3 {
				t.Errorf("%d active, %+v", len(r.active), c)
			}
			write(t, filepath.Dir(path), map[string]string{"b.tar.gz": string(archive(t, policy("a"), policy("b")))})
			r.wait(2 * time.Minute)
			if len(r.active) != 2 {
				t.Errorf("%+v", r.puller.Status())
			}
			if err := os.Remove(path); err != nil {
				t.Fatal(err)
			}
			r.wait(2 * time.Minute)
			r.code(bundle.CodeRequestFailed)
			r.stop()
		})
	}
}

func TestPuller_TrustsTheCAThatItIsGiven(t *testing.T) {
	raw := sequence(t, 1)
	server := httptest.NewTLSServer(http.HandlerFunc(func(w http.ResponseWriter, req *http.Request) { tagged(w, req, raw) }))
	defer server.Close()
	server.Config.ErrorLog = slog.NewLogLogger(slog.DiscardHandler, slog.LevelError)
	ca := filepath.Join(t.TempDir(), "ca.pem")
	write(t, filepath.Dir(ca), map[string]string{"ca.pem": certificatePEM(server.Certificate().Raw)})
	pool, err := bundle.LoadRootCAs(ca)
	if err != nil {
		t.Fatal(err)
	}
	for _, trusted := range []bool{true, false} {
		ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
		cfg := bundle.Config{
			Customer: "acme", Source: server.URL, Now: time.Now, Jitter: func() float64 { return 0 }, Log: slog.New(slog.NewTextHandler(stopper{cancel}, &slog.HandlerOptions{Level: slog.LevelWarn})),
			Activate: func(context.Context, *bundle.Bundle) error { cancel(); return nil },
		}
		if trusted {
			cfg.RootCAs = pool
		}
		p, err := bundle.NewPuller(cfg)
		if err != nil {
			t.Fatal(err)
		}
		p.Run(ctx)
		if s := p.Status(); (s.ActiveRevision == "1") != trusted {
			t.Errorf("trusted %v: %+v", trusted, s)
		}
	}
}

// stopper ends a run at the first warning.
type stopper struct{ stop func() }

func (s stopper) Write(b []byte) (int, error) { s.stop(); return len(b), nil }

func TestNewPuller_RefusesWhatCannotWork(t *testing.T) {
	token := func() (string, error) { return "x", nil }
	for name, change := range map[string]func(*bundle.Config){
		"no customer":           func(c *bundle.Config) { c.Customer = "" },
		"no source":             func(c *bundle.Config) { c.Source = "" },
		"a scheme":              func(c *bundle.Config) { c.Source = "s3://x/y" },
		"no host":               func(c *bundle.Config) { c.Source = "http:///y" },
		"a user":                func(c *bundle.Config) { c.Source = "http://u:p@h/y" },
		"a file elsewhere":      func(c *bundle.Config) { c.Source = "file://h/y" },
		"a token in plain text": func(c *bundle.Config) { c.Token = token },
		"delays crossed":        func(c *bundle.Config) { c.MinDelay = time.Hour },
		"nobody to activate":    func(c *bundle.Config) { c.Activate = nil },
	} {
		cfg := bundle.Config{
			Customer: "acme", Source: "http://bundles.test/acme", Now: time.Now, Jitter: func() float64 { return 0 },
			Log: slog.New(slog.DiscardHandler), Activate: func(context.Context, *bundle.Bundle) error { return nil },
		}
		change(&cfg)
		if _, err := bundle.NewPuller(cfg); err == nil || strings.Contains(err.Error(), "u:p") {
			t.Errorf("%s: %v", name, err)
		}
	}
}
