package main

import (
	"context"
	"database/sql"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"

	"github.com/rogpeppe/go-internal/testscript"
	_ "modernc.org/sqlite" // scripts tamper with the database file

	"github.com/tidwall/gjson"

	"github.com/latchkey-dev/latchkey/internal/servers"
)

// TestScripts runs the whole program through the scripts in testdata/scripts.
// Beside the usual commands they have:
//
//	start [ARGS…]   run a server on $WORK/data; sets LATCHKEY_URL, and
//	                LATCHKEY_KEY to the root key of a first start
//	sidecar [ARGS…]   run a sidecar of it on $WORK/sidecar with the key in
//	                LATCHKEY_KEY, and wait until it is ready; sets SIDECAR_URL
//	terminate | kill9   end it, by SIGTERM or SIGKILL
//	serverlog FILE  write to FILE what the server has logged, after terminate
//	sql STATEMENT   change the database file
//	setjson VAR PATH   set VAR to what stands at PATH in the last output
//	use VAR         call with the key in VAR from now on
func TestScripts(t *testing.T) {
	t.Parallel()
	var running sync.Map // data directory → *process; scripts run side by side
	server := func(ts *testscript.TestScript) *process {
		p, ok := running.Load(ts.Getenv("DATA"))
		if !ok {
			ts.Fatalf("no server was started")
		}
		return p.(*process)
	}
	testscript.Run(t, testscript.Params{
		Dir: filepath.Join("..", "..", "testdata", "scripts"),
		Setup: func(env *testscript.Env) error {
			env.Setenv("DATA", filepath.Join(env.WorkDir, "data"))
			env.Setenv("LATCHKEY_ROOT_KEY", "")
			return nil
		},
		Cmds: map[string]func(*testscript.TestScript, bool, []string){
			"start": func(ts *testscript.TestScript, neg bool, args []string) {
				data := ts.Getenv("DATA")
				var extra []string
				for _, name := range []string{"LATCHKEY_ROOT_KEY", "LATCHKEY_ROOT_KEY_FILE"} {
					if fixed := ts.Getenv(name); fixed != "" {
						extra = append(extra, name+"="+fixed)
					}
				}
				p, err := startServer(data, extra, args, func(c *exec.Cmd) { c.Dir = ts.MkAbs(".") })
				if neg {
					if err == nil {
						_ = p.end(syscall.SIGKILL)
						ts.Fatalf("the server started")
					}
					ts.Logf("%v", err)
					ts.Check(os.WriteFile(ts.MkAbs("start.err"), []byte(err.Error()), 0o600))
					return
				}
				ts.Check(err)
				running.Store(data, p)
				ts.Defer(func() {
					select {
					case <-p.exited:
					default:
						_ = p.end(syscall.SIGKILL)
					}
				})
				ts.Setenv("LATCHKEY_URL", p.url)
				if key, err := rootKey(data); err == nil && ts.Getenv("LATCHKEY_KEY") == "" {
					ts.Setenv("LATCHKEY_KEY", key)
				}
			},
			"sidecar": func(ts *testscript.TestScript, _ bool, args []string) {
				api, err := servers.FreeAddress()
				ts.Check(err)
				p, err := startProcess(api, []string{"LATCHKEY_KEY=" + ts.Getenv("LATCHKEY_KEY")}, append([]string{"sidecar", "--control", ts.Getenv("LATCHKEY_URL"),
					"--data", filepath.Join(ts.Getenv("WORK"), "sidecar"), "--listen", api, "--private-listen", ""}, args...), func(c *exec.Cmd) { c.Dir = ts.MkAbs(".") })
				ts.Check(err)
				ts.Defer(func() {
					select {
					case <-p.exited:
					default:
						_ = p.end(syscall.SIGKILL)
					}
				})
				ts.Check(p.waitReady())
				ts.Setenv("SIDECAR_URL", p.url)
			},
			"terminate": func(ts *testscript.TestScript, _ bool, _ []string) {
				ts.Check(server(ts).end(syscall.SIGTERM))
			},
			"kill9": func(ts *testscript.TestScript, _ bool, _ []string) {
				_ = server(ts).end(syscall.SIGKILL) // its exit status says so
			},
			"serverlog": func(ts *testscript.TestScript, _ bool, args []string) {
				p := server(ts)
				select {
				case err := <-p.exited:
					p.exited <- err
				default:
					ts.Fatalf("the server still writes its log")
				}
				ts.Check(os.WriteFile(ts.MkAbs(args[0]), p.err.Bytes(), 0o600))
			},
			"sql": func(ts *testscript.TestScript, _ bool, args []string) {
				db, err := sql.Open("sqlite", filepath.Join(ts.Getenv("DATA"), "latchkey.db"))
				ts.Check(err)
				defer db.Close()
				result, err := db.ExecContext(context.Background(), strings.Join(args, " "))
				ts.Check(err)
				if n, err := result.RowsAffected(); err != nil || n == 0 {
					ts.Fatalf("the statement changed %d rows: %v", n, err)
				}
			},
			"setjson": func(ts *testscript.TestScript, _ bool, args []string) {
				value := gjson.Get(ts.ReadFile("stdout"), args[1])
				if !value.Exists() {
					ts.Fatalf("nothing at %s", args[1])
				}
				ts.Setenv(args[0], value.String())
			},
			"use": func(ts *testscript.TestScript, _ bool, args []string) {
				ts.Setenv("LATCHKEY_KEY", ts.Getenv(args[0]))
			},
		},
	})
}
