package sandbox

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// escape is the argument that makes the test binary a child that has broken out
// of the interpreter: it confines itself, and then runs machine code.
const escape = "escaped"

func TestMain(m *testing.M) {
	if len(os.Args) > 1 {
		switch os.Args[1] {
		case Command:
			os.Exit(Main())
		case escape:
			os.Exit(escaped())
		}
	}
	os.Exit(m.Run())
}

// require skips where the machine cannot confine a child, unless it must.
func require(t *testing.T) *Runner {
	t.Helper()
	r := New(2)
	if err := r.Probe(t.Context()); err != nil {
		if os.Getenv("LATCHKEY_REQUIRE_SANDBOX") != "" {
			t.Fatal(err)
		}
		t.Skip(err)
	}
	return r
}

// host answers scripts from maps, and keeps what they ask.
type host struct {
	mu       sync.Mutex
	secrets  map[string]string
	requests []Request
	fetch    func(Request) (Answer, error)
}

func (h *host) Secret(_ context.Context, name string) (string, error) {
	v, ok := h.secrets[name]
	if !ok {
		return "", errors.New("the task may not read it")
	}
	return v, nil
}

func (h *host) Fetch(_ context.Context, r Request) (Answer, error) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.requests = append(h.requests, r)
	if h.fetch == nil {
		return Answer{Status: 200, Header: map[string]string{"Content-Type": "text/plain"}, Body: []byte("ok")}, nil
	}
	return h.fetch(r)
}

func (h *host) Approvers(_ context.Context, request string) ([]Approver, error) {
	if request != "r1" {
		return nil, errors.New("there is no such request")
	}
	return []Approver{{"u1", "ada@example.com", "Ada"}, {"u2", "grace@example.com", "Grace"}}, nil
}

const logger = `package task

import (
    "config"
    "fmt"
    "strings"
)

func Run() (string, error) {
    event := config.Get("trigger_event")
    lines := []string{
        fmt.Sprintf("=== access_request.%s ===", event),
        fmt.Sprintf("  Request ID:      %s", config.Get("request_id")),
        fmt.Sprintf("  Status:          %s", config.Get("request_status")),
        fmt.Sprintf("  Template:        %s", config.Get("template_name")),
        fmt.Sprintf("  App:             %s", config.Get("app_name")),
        fmt.Sprintf("  Requester:       %s (%s)", config.Get("requester_name"), config.Get("requester_email")),
        fmt.Sprintf("  Justification:   %s", config.Get("justification")),
    }
    output := strings.Join(lines, "\n")
    fmt.Println(output)
    return output, nil
}
`

// slack uses secrets without an import, and ignores what http.Post returns.
const slack = `package task

import (
    "bytes"
    "config"
    "encoding/json"
    "idp"
    "net/http"
    "strings"
)

func Run() (string, error) {
    requestID := config.Get("request_id")
    requesterEmail := config.Get("requester_email")
    templateName := config.Get("template_name")

    approvers, _ := idp.GetAccessRequestApprovers(requestID)
    emails := make([]string, len(approvers))
    for i, a := range approvers {
        emails[i] = a.Email
    }

    msg := templateName + " access requested by " + requesterEmail +
        " — approvers: " + strings.Join(emails, ", ")

    body, _ := json.Marshal(map[string]string{"text": msg})
    http.Post(secrets.Get("SLACK_WEBHOOK"), "application/json", bytes.NewReader(body))
    return "notified", nil
}
`

func TestRun_ScriptsOfTheDocument(t *testing.T) {
	r := require(t)
	settings := map[string]string{
		"trigger_event": "created", "request_id": "r1", "request_status": "created", "template_name": "Database read-only access", "app_name": "internal-db",
		"requester_name": "Dale Cooper", "requester_email": "dale@example.com", "justification": "owls",
	}
	t.Run("logger", func(t *testing.T) {
		out, err := r.Run(t.Context(), Job{Script: logger, Config: settings})
		want := "=== access_request.created ===\n  Request ID:      r1\n  Status:          created\n  Template:        Database read-only access\n  App:             internal-db\n  Requester:       Dale Cooper (dale@example.com)\n  Justification:   owls"
		if err != nil || !out.Done || out.Result != want || out.Output != want+"\n" {
			t.Fatalf("%+v, %v", out, err)
		}
	})
	t.Run("slack", func(t *testing.T) {
		h := &host{secrets: map[string]string{"SLACK_WEBHOOK": "https://hooks.example.com/T0/B0"}}
		out, err := r.Run(t.Context(), Job{Script: slack, Config: settings, Host: h})
		if err != nil || !out.Done || out.Result != "notified" || len(h.requests) != 1 {
			t.Fatalf("%+v, %v, %v", out, err, h.requests)
		}
		got := h.requests[0]
		want := `{"text":"Database read-only access access requested by dale@example.com — approvers: ada@example.com, grace@example.com"}`
		if got.Method != "POST" || got.URL != "https://hooks.example.com/T0/B0" || got.ContentType != "application/json" || string(got.Body) != want {
			t.Fatalf("%+v %s", got, got.Body)
		}
	})
}

// body makes a script of the statements of Run.
func body(imports, statements string) string {
	var b strings.Builder
	b.WriteString("package task\n")
	for name := range strings.FieldsSeq(imports) {
		fmt.Fprintf(&b, "import %q\n", name)
	}
	return b.String() + "func Run() (string, error) {\n" + statements + "\n}\n"
}

func TestRun_WhatScriptsMayDo(t *testing.T) {
	r := require(t)
	for name, tc := range map[string]struct{ script, want string }{
		"event prefix":    {body("", `return config.Get("event.request_id") + config.Get("nothing"), nil`), "r1"},
		"response":        {body("net/http io strconv", `r, err := http.Get("https://a.example"); if err != nil { return "", err }; b, err := io.ReadAll(r.Body); r.Body.Close(); return strconv.Itoa(r.StatusCode) + string(b) + r.Header.Get("content-type"), err`), "200oktext/plain"},
		"approvers":       {body("", `l, err := idp.GetAccessRequestApprovers("r1"); return l[0].ID + l[1].Name, err`), "u1Grace"},
		"hmac":            {body("crypto/hmac crypto/sha256 encoding/hex", `m := hmac.New(sha256.New, []byte("k")); m.Write([]byte("v")); return hex.EncodeToString(m.Sum(nil))[:8], nil`), "c5d4be19"},
		"regexp and url":  {body("regexp net/url", `u, err := url.Parse("https://a.example/x?q=1"); return regexp.MustCompile("[a-z]+").FindString(u.Host) + u.Query().Get("q"), err`), "a1"},
		"goroutines":      {body("strconv", `c := make(chan int); for i := 0; i < 100; i++ { go func(i int) { c <- i }(i) }; n := 0; for i := 0; i < 100; i++ { n += <-c }; return strconv.Itoa(n), nil`), "4950"},
		"time":            {body("time", `time.Sleep(time.Millisecond); return time.Unix(0, 0).UTC().Format(time.RFC3339), nil`), "1970-01-01T00:00:00Z"},
		"json":            {body("encoding/json", `var v map[string]interface{}; err := json.Unmarshal([]byte("{\"a\":[1,\"b\"]}"), &v); return v["a"].([]interface{})[1].(string), err`), "b"},
		"own types":       {"package task\nimport \"sort\"\ntype byLen []string\nfunc (b byLen) Len() int { return len(b) }\nfunc (b byLen) Less(i, j int) bool { return len(b[i]) < len(b[j]) }\nfunc (b byLen) Swap(i, j int) { b[i], b[j] = b[j], b[i] }\nfunc Run() (string, error) { l := byLen{\"ccc\", \"a\"}; sort.Sort(l); return l[0], nil }", "a"},
		"secret":          {body("", `return secrets.Get("KEY"), nil`), "s3cret"},
		"a local secrets": {body("", `secrets := map[string]string{"a": "mine"}; return secrets["a"], nil`), "mine"},
	} {
		t.Run(name, func(t *testing.T) {
			h := &host{secrets: map[string]string{"KEY": "s3cret"}}
			out, err := r.Run(t.Context(), Job{Script: tc.script, Config: map[string]string{"request_id": "r1"}, Host: h})
			if err != nil || !out.Done || out.Result != tc.want {
				t.Fatalf("%+v, %v: want %q", out, err, tc.want)
			}
		})
	}
}

// What a script tries, and what becomes of it.
func TestRun_Attacks(t *testing.T) {
	r := require(t)
	for name, tc := range map[string]struct {
		script, want string
		wall         time.Duration
	}{
		"a loop without end":            {body("", `for {}`), "took longer", time.Second},
		"a sleep without end":           {body("time", `time.Sleep(time.Hour); return "", nil`), "took longer", 300 * time.Millisecond},
		"a wait without end":            {body("", `select {}`), "", time.Second},
		"one allocation too large":      {body("strings", `return strings.Repeat("x", 1<<33)[:1], nil`), "memory", 0},
		"a map without end":             {body("", `m := map[int]string{}; for i := 0; ; i++ { m[i] = string(make([]byte, 1024)) }`), "more memory", 0},
		"goroutines without end":        {body("", `for { go func() { select {} }() }`), "", 0},
		"goroutines that multiply":      {"package task\nfunc bomb() { for { go bomb() } }\nfunc Run() (string, error) { bomb(); return \"\", nil }", "", 0},
		"recursion without end":         {"package task\nfunc f(n int) int { return f(n+1) + 1 }\nfunc Run() (string, error) { f(0); return \"\", nil }", "", 0},
		"a panic":                       {body("", `panic("boom")`), "panic: boom", 0},
		"a panic of a goroutine":        {body("time", `go func() { panic("boom") }(); time.Sleep(time.Minute); return "", nil`), "", 0},
		"a nil map":                     {body("", `var m map[string]int; m["a"] = 1; return "", nil`), "panic", 0},
		"an index out of range":         {body("", `var l []int; i := 3; return string(rune(l[i])), nil`), "panic", 0},
		"a panic before Run":            {"package task\nvar x = f()\nfunc f() int { panic(\"early\") }\nfunc Run() (string, error) { return \"\", nil }", "early", 0},
		"a secret of another task":      {body("", `return secrets.Get("OTHER"), nil`), "the task may not read it", 0},
		"many questions":                {body("net/http", `for i := 0; ; i++ { http.Get("https://a.example") }`), "protocol", 0},
		"the approvers of another one":  {body("", `_, err := idp.GetAccessRequestApprovers("r2"); return "", err`), "no such request", 0},
		"a body too large":              {body("net/http strings", `_, err := http.Post("https://a.example", "text/plain", strings.NewReader(strings.Repeat("x", 1<<20))); return "", err`), "larger than", 0},
		"a question too large":          {body("strings", `return secrets.Get(strings.Repeat("x", 2<<20)), nil`), "too large", 0},
		"a zone file":                   {body("time", `l := time.LoadLocation; return "", nil`), "LoadLocation", 0},
		"standard input of the process": {body("fmt", `var s string; fmt.Scan(&s); return s, nil`), "Scan", 0},
	} {
		t.Run(name, func(t *testing.T) {
			out, err := r.Run(t.Context(), Job{Script: tc.script, Host: &host{}, Wall: tc.wall})
			if err != nil || out.Done || !strings.Contains(out.Error, tc.want) || out.Error == "" {
				t.Fatalf("%+v, %v: want an error with %q", out, err, tc.want)
			}
			if out.TimedOut != strings.Contains(out.Error, "took longer") {
				t.Errorf("%+v", out)
			}
			if strings.Contains(out.Error, "0x") || strings.Contains(out.Error, "goroutine ") {
				t.Errorf("tells of the process: %s", out.Error)
			}
		})
	}
}

func TestRun_ProcessorTimeIsBounded(t *testing.T) {
	if testing.Short() {
		t.Skip("takes 10 s of a processor")
	}
	r := require(t)
	used := func() time.Duration { // by children that have ended
		var u syscall.Rusage
		if err := syscall.Getrusage(syscall.RUSAGE_CHILDREN, &u); err != nil {
			t.Fatal(err)
		}
		return time.Duration(u.Utime.Nano() + u.Stime.Nano())
	}
	before := used()
	out, err := r.Run(t.Context(), Job{Script: body("", `for {}`), Host: &host{}})
	if had := used() - before; had > processorTime+2*time.Second {
		t.Errorf("the script had %v of a processor", had)
	}
	if err == nil && out.TimedOut {
		t.Skipf("the machine is so busy that the script had less than %v of a processor in %v", processorTime, MaxWall)
	}
	if err != nil || out.Done || out.TimedOut || !strings.Contains(out.Error, "processor time") {
		t.Fatalf("%+v, %v", out, err)
	}
}

func TestRun_MemoryIsBounded(t *testing.T) {
	r := require(t)
	out, err := r.Run(t.Context(), Job{Script: body("", `var l [][]byte; for { b := make([]byte, 1<<20); for i := 0; i < len(b); i += 4096 { b[i] = 1 }; l = append(l, b) }`), Host: &host{}})
	if err != nil || out.Done || !strings.Contains(out.Error, "more memory") {
		t.Fatalf("%+v, %v", out, err)
	}
	var u syscall.Rusage
	if err := syscall.Getrusage(syscall.RUSAGE_CHILDREN, &u); err != nil {
		t.Fatal(err)
	}
	// Of the largest child; what is not data is the program's own file.
	if most := int64(u.Maxrss) << 10; most < 8<<20 || most > memoryBudget+128<<20 { //nolint:unconvert // of 32 bits on other machines
		t.Errorf("the script had %d MiB", most>>20)
	}
}

func TestRun_OutputIsCapped(t *testing.T) {
	r := require(t)
	out, err := r.Run(t.Context(), Job{Script: body("fmt strings", `for i := 0; i < 1000; i++ { fmt.Print(strings.Repeat("x", 100000)) }; println("more"); return strings.Repeat("é", 100000), nil`), Host: &host{}})
	if err != nil || !out.Done || len(out.Output) != maxOutput || !out.Cut || len(out.Result) > maxResult || strings.Contains(out.Result, "\uFFFD") {
		t.Fatalf("%v %d %v %d %v", out.Done, len(out.Output), out.Cut, len(out.Result), err)
	}
}

func TestRun_WhatWasPrintedOutlivesTheScript(t *testing.T) {
	r := require(t)
	began := time.Now()
	if out, err := r.Run(t.Context(), Job{Script: body("fmt", `fmt.Println("before"); return "", nil`), Host: &host{}}); err != nil || !out.Done {
		t.Fatalf("%+v, %v", out, err)
	}
	wall := 500*time.Millisecond + 5*time.Since(began) // on a busy machine it takes long until anything is printed
	out, err := r.Run(t.Context(), Job{Script: body("fmt", `fmt.Println("before"); for {}`), Host: &host{}, Wall: wall})
	if err != nil || !out.TimedOut || out.Output != "before\n" {
		t.Fatalf("%+v, %v", out, err)
	}
}

func TestRun_EndsWithItsContext(t *testing.T) {
	r := require(t)
	ctx, cancel := context.WithCancel(t.Context())
	h := &host{fetch: func(Request) (Answer, error) { cancel(); return Answer{Status: 200}, nil }}
	_, err := r.Run(ctx, Job{Script: body("net/http", `http.Get("https://a.example"); for {}`), Host: h})
	if !errors.Is(err, context.Canceled) {
		t.Fatal(err)
	}
}

func TestCheck(t *testing.T) {
	for _, name := range []string{
		"os", "os/exec", "io/fs", "io/ioutil", "net", "syscall", "unsafe", "reflect", "runtime", "runtime/debug", "text/template", "html/template", "embed", "plugin", "C",
		"path/filepath", "log", "crypto/rand", "net/http/httputil", "golang.org/x/sys/unix", "github.com/traefik/yaegi/interp", "./x", "../../etc", "/etc", "testing", "debug/elf", "go/build",
	} {
		if err := Check(body(name, `return "", nil`)); err == nil {
			t.Errorf("imports %s", name)
		}
	}
	for name, script := range map[string]string{
		"another package": "package main\nfunc Run() (string, error) { return \"\", nil }",
		"no Run":          "package task\nfunc run() (string, error) { return \"\", nil }",
		"a method":        "package task\ntype T int\nfunc (T) Run() (string, error) { return \"\", nil }",
		"arguments":       "package task\nfunc Run(a int) (string, error) { return \"\", nil }",
		"one result":      "package task\nfunc Run() string { return \"\" }",
		"generic":         "package task\nfunc Run[T any]() (string, error) { return \"\", nil }",
		"dot import":      "package task\nimport . \"strings\"\nfunc Run() (string, error) { return \"\", nil }",
		"syntax":          "package task\nfunc Run() (string, error) {",
		"empty":           "",
		"nested deeply":   "package task\nfunc Run() (string, error) { return " + strings.Repeat("(", 60000),
		"too long":        body("", `return "", nil`) + strings.Repeat("//\n", MaxScript),
	} {
		if Check(script) == nil {
			t.Errorf("%s passes", name)
		}
	}
	for _, script := range []string{logger, slack, body("", `return "", nil`), "package task\nfunc Run() (a string, b error) { return }"} {
		if err := Check(script); err != nil {
			t.Error(err)
		}
	}
}

func TestPrepare_LinesKeepTheirNumbers(t *testing.T) {
	got, err := prepare(slack)
	if err != nil || !strings.HasPrefix(got, "package task; import \"secrets\"\n") || strings.Count(got, "\n") != strings.Count(slack, "\n") {
		t.Fatal(got, err)
	}
	r := require(t)
	out, err := r.Run(t.Context(), Job{Script: "package task\n\nfunc Run() (string, error) {\n\treturn nothing, nil\n}\n"})
	if err != nil || !strings.HasPrefix(out.Error, "line 4:") {
		t.Fatalf("%+v, %v", out, err)
	}
}

func TestCompile(t *testing.T) {
	r := require(t)
	for name, tc := range map[string]struct{ script, want string }{
		"the document's":          {slack, ""},
		"what would panic":        {"package task\nvar x = f()\nfunc f() int { panic(\"early\") }\nfunc Run() (string, error) { return \"\", nil }", ""},
		"what would never end":    {"package task\nfunc init() { for {} }\nfunc Run() (string, error) { for {} }", ""},
		"what would print":        {"package task\nimport \"fmt\"\nvar n, _ = fmt.Println(\"ran\")\nfunc Run() (string, error) { return \"\", nil }", ""},
		"an unknown name":         {"package task\n\nfunc Run() (string, error) {\n\treturn nothing, nil\n}\n", "line 4:"},
		"a wrong type":            {"package task\nfunc Run() (string, error) {\n\treturn 7 + \"x\", nil\n}\n", "line 3:"},
		"an unknown symbol":       {body("strings", `return strings.Nothing("x"), nil`), "Nothing"},
		"another form":            {"package main", "want task"},
		"a constant without end":  {body("", `const a = 1 << 10000000000; return "", nil`), "more memory"},
		"a type that has no size": {"package task\ntype a [1 << 40]a\nfunc Run() (string, error) { var x a; _ = x; return \"\", nil }", "panic"},
	} {
		t.Run(name, func(t *testing.T) {
			why, err := r.Compile(t.Context(), tc.script)
			if err != nil || (why == "") != (tc.want == "") || !strings.Contains(why, tc.want) {
				t.Errorf("%q, %v: want %q", why, err, tc.want)
			}
		})
	}
}

// The interpreter is left aside: whoever breaks out of it runs machine code in the
// child, and finds nothing there.
func TestConfine_HoldsAgainstMachineCode(t *testing.T) {
	require(t)
	dir := t.TempDir()
	secret := filepath.Join(dir, "secret")
	if err := errors.Join(os.WriteFile(secret, []byte("hidden"), 0o644), os.Chmod(dir, 0o755)); err != nil {
		t.Fatal(err)
	}
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer ln.Close()
	cmd := exec.CommandContext(t.Context(), "/proc/self/exe", escape, secret, ln.Addr().String(), fmt.Sprint(os.Getpid()))
	cmd.Env, cmd.Dir = []string{}, "/"
	separate(cmd)
	var out, stderr bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &stderr
	if err := cmd.Run(); err != nil {
		t.Fatalf("%v\n%s%s", err, out.String(), stderr.String())
	}
	if got := out.String(); got != "confined\nenvironment: 0\ndone\n" {
		t.Fatalf("what got through:\n%s", got)
	}
}

// escaped is what machine code in the child tries. It prints what works.
func escaped() int {
	secret, address := os.Args[2], os.Args[3]
	var parent int
	if _, err := fmt.Sscan(os.Args[4], &parent); err != nil {
		return 1
	}
	if err := confine(processorTime); err != nil {
		fmt.Println("not confined:", err)
		return 1
	}
	fmt.Println("confined")
	fmt.Printf("environment: %d\n", len(os.Environ()))
	page := make([]byte, 64)
	for name, try := range map[string]func() error{
		"read a file":             func() error { _, err := os.ReadFile(secret); return err },
		"read /etc/passwd":        func() error { _, err := os.ReadFile("/etc/passwd"); return err },
		"read its environment":    func() error { _, err := os.ReadFile("/proc/self/environ"); return err },
		"read its memory":         func() error { _, err := os.Open("/proc/self/mem"); return err },
		"read the parent":         func() error { _, err := os.Open(fmt.Sprintf("/proc/%d/environ", parent)); return err },
		"list a directory":        func() error { _, err := os.ReadDir("/"); return err },
		"look at a file":          func() error { _, err := os.Stat(secret); return err },
		"write a file":            func() error { return os.WriteFile("/tmp/latchkey-escaped", page, 0o600) },
		"truncate a file":         func() error { return os.Truncate(secret, 0) },
		"remove a file":           func() error { return os.Remove(secret) },
		"rename a file":           func() error { return os.Rename(secret, secret+"2") },
		"link a file":             func() error { return os.Link(secret, secret+"2") },
		"make a directory":        func() error { return os.Mkdir("/tmp/latchkey-escaped", 0o700) },
		"change the directory":    func() error { return os.Chdir("/tmp") },
		"open by openat2":         func() error { _, err := unix.Openat2(unix.AT_FDCWD, secret, &unix.OpenHow{}); return err },
		"an anonymous file":       func() error { _, err := unix.MemfdCreate("x", 0); return err },
		"connect":                 func() error { _, err := net.DialTimeout("tcp", address, time.Second); return err },
		"listen":                  func() error { _, err := net.Listen("tcp", "127.0.0.1:0"); return err },
		"a UDP socket":            func() error { _, err := unix.Socket(unix.AF_INET, unix.SOCK_DGRAM, 0); return err },
		"a unix socket":           func() error { _, err := unix.Socket(unix.AF_UNIX, unix.SOCK_STREAM, 0); return err },
		"a pair of sockets":       func() error { _, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_STREAM, 0); return err },
		"a netlink socket":        func() error { _, err := unix.Socket(unix.AF_NETLINK, unix.SOCK_RAW, 0); return err },
		"exec":                    func() error { return syscall.Exec("/proc/self/exe", []string{"x"}, nil) },
		"a process":               func() error { return exec.Command("/bin/true").Run() },
		"fork":                    func() error { return call(unix.SYS_CLONE, uintptr(unix.SIGCHLD)) },
		"clone3":                  func() error { return call(unix.SYS_CLONE3) },
		"a user namespace":        func() error { return unix.Unshare(unix.CLONE_NEWUSER) },
		"signal the parent":       func() error { return unix.Kill(parent, 0) },
		"signal its thread":       func() error { return unix.Tgkill(parent, parent, 0) },
		"trace the parent":        func() error { return unix.PtraceAttach(parent) },
		"read the parent's bytes": func() error { return call(unix.SYS_PROCESS_VM_READV, uintptr(parent)) },
		"raise a limit":           func() error { return unix.Setrlimit(unix.RLIMIT_DATA, &unix.Rlimit{Cur: 1 << 40, Max: 1 << 40}) },
		"become root":             func() error { return call(unix.SYS_SETUID, 0) },
		"mount":                   func() error { return unix.Mount("none", "/tmp", "tmpfs", 0, "") },
		"load code": func() error {
			_, err := unix.Mmap(-1, 0, 4096, unix.PROT_READ|unix.PROT_EXEC, unix.MAP_PRIVATE|unix.MAP_ANON)
			return err
		},
		"make memory runnable":  func() error { return call(unix.SYS_MPROTECT) },
		"io_uring":              func() error { return call(unix.SYS_IO_URING_SETUP, 1) },
		"bpf":                   func() error { return call(unix.SYS_BPF) },
		"keys of the kernel":    func() error { return call(unix.SYS_ADD_KEY) },
		"perf":                  func() error { return call(unix.SYS_PERF_EVENT_OPEN) },
		"ioctl of the terminal": func() error { return call(unix.SYS_IOCTL, 0, unix.TIOCSTI) },
		"drop the filter":       func() error { return unix.Prctl(unix.PR_SET_SECCOMP, 0, 0, 0, 0) },
		"be readable":           func() error { return unix.Prctl(unix.PR_SET_DUMPABLE, 1, 0, 0, 0) },
	} {
		if err := try(); err == nil {
			fmt.Println("escaped:", name)
		}
	}
	if unix.Geteuid() == 0 {
		fmt.Println("escaped: still root")
	}
	fmt.Println("done")
	return 0
}

func call(number uintptr, args ...uintptr) error {
	var a [3]uintptr
	copy(a[:], args)
	if _, _, err := syscall.RawSyscall(number, a[0], a[1], a[2]); err == syscall.EPERM {
		return err
	}
	return nil // whatever else it says, the kernel has looked at it
}

// A child that sends frames of its own making gets nothing, and harms nobody.
func TestTalk_TakesNothingFromCraftedFrames(t *testing.T) {
	h := &host{secrets: map[string]string{"KEY": "v"}}
	ready := frame{kindReady, nil}
	long := strings.Repeat("x", maxOutput)
	for name, sent := range map[string][]frame{
		"done before ready":     {{kindDone, []string{"forged", ""}}},
		"a reply as a question": {ready, {kindAnswer, []string{"x"}}},
		"an unknown kind":       {ready, {'?', nil}},
		"too few fields":        {ready, {kindFetch, []string{"GET", "https://a.example"}}},
		"too many fields":       {ready, {kindSecret, []string{"KEY", "KEY"}}},
		"another method":        {ready, {kindFetch, []string{"DELETE", "https://a.example", "", ""}}},
		"a method in a method":  {ready, {kindFetch, []string{"GET / HTTP/1.1\r\nX: ", "https://a.example", "", ""}}},
		"GET with a body":       {ready, {kindFetch, []string{"GET", "https://a.example", "", "body"}}},
		"a large body":          {ready, {kindFetch, []string{"POST", "https://a.example", "", strings.Repeat("x", maxBody+1)}}},
		"output past the end":   {ready, {kindOutput, []string{long + "x"}}, {kindOutput, []string{"x"}}},
		"ready twice":           {ready, ready},
	} {
		t.Run(name, func(t *testing.T) {
			var in bytes.Buffer
			for _, f := range sent {
				if err := writeFrame(&in, f); err != nil {
					t.Fatal(err)
				}
			}
			s := &session{job: Job{Host: h}, in: io.Discard, from: &in}
			if err := s.talk(t.Context()); !errors.Is(err, errProtocol) || s.out.Done || s.out.Error == "" {
				t.Fatalf("%v %+v", err, s.out)
			}
		})
	}
	if len(h.requests) != 0 {
		t.Fatalf("requests were made: %v", h.requests)
	}
}

// A run may make so many requests, whatever the interpreter in the child thinks.
func TestTalk_CountsRequests(t *testing.T) {
	var in bytes.Buffer
	sent := []frame{{kindReady, nil}}
	for range maxFetch + 5 {
		sent = append(sent, frame{kindFetch, []string{"GET", "https://a.example", "", ""}})
	}
	for _, f := range append(sent, frame{kindDone, []string{"done", ""}}) {
		if err := writeFrame(&in, f); err != nil {
			t.Fatal(err)
		}
	}
	h := &host{}
	var out bytes.Buffer
	s := &session{job: Job{Host: h}, in: &out, from: &in}
	if err := s.talk(t.Context()); err != nil || !s.out.Done {
		t.Fatalf("%v %+v", err, s.out)
	}
	if len(h.requests) != maxFetch {
		t.Errorf("%d requests were made, %d may be", len(h.requests), maxFetch)
	}
	refused := 0
	for {
		f, err := readFrame(&out)
		if err != nil {
			break
		}
		if f.kind == kindError {
			refused++
		}
	}
	if refused != 5 {
		t.Errorf("%d were refused", refused)
	}
}

// A length is refused before anything of that length is waited for.
func TestTalk_WaitsForNoFrameThatIsTooLong(t *testing.T) {
	for _, size := range []uint32{0, maxFrame + 1, 1 << 31, 1<<32 - 1} {
		from, to := io.Pipe()
		go func() { // and then nothing, without an end
			_, _ = to.Write(binary.BigEndian.AppendUint32(nil, size))
		}()
		s := &session{job: Job{Host: &host{}}, in: io.Discard, from: from}
		done := make(chan error, 1)
		go func() { done <- s.talk(t.Context()) }()
		select {
		case err := <-done:
			if !errors.Is(err, errFrame) || s.out.Done {
				t.Errorf("%d: %v %+v", size, err, s.out)
			}
		case <-time.After(time.Minute):
			t.Errorf("a frame of %d bytes is waited for", size)
		}
		_ = to.Close()
	}
}

func FuzzReadFrame(f *testing.F) {
	for _, s := range []frame{{kindReady, nil}, {kindDone, []string{"a", ""}}, {kindFetch, []string{"GET", "u", "", ""}}} {
		var b bytes.Buffer
		if err := writeFrame(&b, s); err != nil {
			f.Fatal(err)
		}
		f.Add(b.Bytes())
	}
	f.Add([]byte{0xff, 0xff, 0xff, 0xff, 'd'})
	f.Add([]byte{0, 0, 0, 6, 'd', 0xff, 0xff, 0xff, 0xff, 'x'})
	f.Fuzz(func(t *testing.T, b []byte) {
		got, err := readFrame(bytes.NewReader(b))
		if err != nil {
			return
		}
		var again bytes.Buffer
		if err := writeFrame(&again, got); err != nil {
			t.Fatal(err)
		}
		if !bytes.HasPrefix(b, again.Bytes()) {
			t.Fatalf("%x reads as %x", b, again.Bytes())
		}
	})
}
