package notify

import (
	"bufio"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/latchkey-dev/latchkey/deliveries"
)

// indentReceiver starts a receiver that uses Indent's own package in Node.
func indentReceiver(t *testing.T, secret string) (url string) {
	t.Helper()
	for _, need := range []string{"node", "npm"} {
		if _, err := exec.LookPath(need); err != nil {
			if os.Getenv("CI") != "" || os.Getenv("LATCHKEY_REQUIRE_SERVERS") != "" {
				t.Fatal(err)
			}
			t.Skipf("%s is not installed: apt-get install nodejs npm", need)
		}
	}
	dir := t.TempDir()
	if err := os.CopyFS(dir, os.DirFS(filepath.Join("testdata", "indent"))); err != nil {
		t.Fatal(err)
	}
	install := exec.CommandContext(t.Context(), "npm", "ci", "--ignore-scripts", "--no-audit", "--no-fund", "--prefer-offline")
	install.Dir = dir
	if out, err := install.CombinedOutput(); err != nil {
		t.Fatalf("npm ci: %v\n%s", err, out)
	}
	node := exec.CommandContext(t.Context(), "node", "receive.js")
	node.Dir, node.Env, node.Stderr = dir, append(os.Environ(), "SECRET="+secret), os.Stderr
	out, err := node.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := node.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		_ = node.Process.Kill()
		_ = node.Wait() // killed
	})
	port, err := bufio.NewReader(out).ReadString('\n')
	if err != nil {
		t.Fatal(err)
	}
	return "http://127.0.0.1:" + strings.TrimSpace(port) + "/"
}

// Receivers of before parse the body and serialise it again before they check: what
// that changes in the bytes breaks the signature.
func TestSender_IndentsReceiverVerifies(t *testing.T) {
	const secret = "the secret of the receiver, é"
	w := newWorld(t)
	url := indentReceiver(t, secret)
	hook := w.webhook(url, `,"compat":"indent","compat_secret":"`+secret+`"`)
	foreign := w.webhook(url, `,"compat":"indent","compat_secret":"another secret"`)
	for _, more := range []string{
		``,
		`,"template_name":"<b>&amp; \u003c\u2028\u2029 \/ \"quoted\" \\ \b\f\n\r\t\u000b\u001f\u007f é ﬀ 💡 \ud83d\ude00"`,
		`,"notified_approvers":[{"id":"1","email":"a@example.com"},{"2":1,"10":2,"b":3,"1":4,"01":5,"4294967294":6,"4294967295":7,"-1":8,"1.5":9,"":0,"__proto__":10}]`,
		`,"cancelled":true,"pending":false,"decided_by":null`,
		`,"app_name":[1.0,-0,0.1,1e21,1E-7,123456789012345680000,1.5e300,5e-324,100,-1e-6,0.000001,1e-10,12345678901234567890]`,
	} {
		w.happened(deliveries.Approved, more)
	}
	for n := 1; n > 0; {
		n = w.send()
	}
	for _, d := range w.deliveries(hook.ID) {
		if d.Status != deliveries.Delivered {
			t.Errorf("%+v", d)
		}
	}
	for _, d := range w.deliveries(foreign.ID) {
		if d.Status != deliveries.Pending || d.Outcome.ReplyStatus != 401 {
			t.Errorf("another secret verifies: %+v", d)
		}
	}
}
