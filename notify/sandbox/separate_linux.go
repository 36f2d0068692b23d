package sandbox

import (
	"os/exec"
	"syscall"
	"time"
)

// separate puts a child into a process group of its own, which is killed as a
// whole, and lets it die with the parent.
func separate(cmd *exec.Cmd) {
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true, Pdeathsig: syscall.SIGKILL}
	cmd.Cancel = func() error { return syscall.Kill(-cmd.Process.Pid, syscall.SIGKILL) }
	cmd.WaitDelay = time.Second
}
