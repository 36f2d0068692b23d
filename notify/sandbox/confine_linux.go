package sandbox

import (
	"errors"
	"fmt"
	"os"
	"runtime"
	"runtime/debug"
	"strconv"
	"strings"
	"syscall"
	"time"

	"github.com/elastic/go-seccomp-bpf"
	"github.com/landlock-lsm/go-landlock/landlock"
	llsys "github.com/landlock-lsm/go-landlock/landlock/syscall"
	"golang.org/x/sys/unix"
)

// Bounds of the child. Memory counts from what the process has at its start:
// RLIMIT_DATA counts what the binary itself has mapped, too.
const (
	memoryBudget = 128 << 20
	heapTarget   = 80 << 20 // above it the collector works harder
	stackBudget  = 32 << 20 // of one goroutine
	threadBudget = 24
	fileBudget   = 8 // the three pipes, and what the runtime waits with
	niceness     = 10
)

// nobody is who the child of a root process becomes.
const nobody = 65534

// confine gives up everything that a script does not need, for every thread and
// for good. Where any of it cannot be had it says so, and nothing may be run.
func confine(cpu time.Duration) error {
	runtime.GOMAXPROCS(1) // also: the runtime does not look for more processors later on
	debug.SetMaxStack(stackBudget)
	debug.SetMaxThreads(threadBudget)
	debug.SetMemoryLimit(heapTarget)
	<-time.NewTimer(time.Microsecond).C // what the runtime waits for timers with is opened here
	if abi, err := llsys.LandlockGetABIVersion(); err != nil || abi < 1 {
		return errors.New("the kernel has no landlock, or it is not enabled")
	}
	if !seccomp.Supported() {
		return errors.New("the kernel has no seccomp filters, or they are not permitted")
	}
	if err := unix.Setpriority(unix.PRIO_PGRP, 0, niceness); err != nil {
		return fmt.Errorf("lower the priority: %w", err)
	}
	data, err := dataSize() // while files can be read
	if err != nil {
		return err
	}
	if err := giveUpRoot(); err != nil {
		return err
	}
	if err := unix.Prctl(unix.PR_SET_DUMPABLE, 0, 0, 0, 0); err != nil {
		return fmt.Errorf("refuse to be read by others: %w", err)
	}
	// Best effort is for what kernels have learnt since: files are checked above.
	if err := landlock.V11.BestEffort().Restrict(); err != nil {
		return fmt.Errorf("landlock: %w", err)
	}
	if err := limit(data, cpu); err != nil {
		return err
	}
	if err := filterCalls(); err != nil {
		return err
	}
	return probe()
}

// limit sets what the process may use. There is no RLIMIT_NPROC: it counts the
// threads of all processes of the user, the server's too; that no process is made
// is seccomp's part. Data is what the process has mapped at its start.
func limit(data uint64, cpu time.Duration) error {
	seconds := uint64(max(1, cpu/time.Second))
	for _, l := range []struct {
		name     string
		resource int
		most     uint64
	}{
		{"memory", unix.RLIMIT_DATA, data + memoryBudget},
		{"processor time", unix.RLIMIT_CPU, seconds},
		{"open files", unix.RLIMIT_NOFILE, fileBudget},
		{"file size", unix.RLIMIT_FSIZE, 0},
		{"core", unix.RLIMIT_CORE, 0},
		{"locked memory", unix.RLIMIT_MEMLOCK, 0},
		{"message queues", unix.RLIMIT_MSGQUEUE, 0},
	} {
		if err := unix.Setrlimit(l.resource, &unix.Rlimit{Cur: l.most, Max: l.most}); err != nil {
			return fmt.Errorf("limit the %s: %w", l.name, err)
		}
	}
	return nil
}

// dataSize is what RLIMIT_DATA counts now.
func dataSize() (uint64, error) {
	status, err := os.ReadFile("/proc/self/status")
	if err != nil {
		return 0, fmt.Errorf("read how much memory is in use: %w", err)
	}
	for line := range strings.Lines(string(status)) {
		if text, ok := strings.CutPrefix(line, "VmData:"); ok {
			kib, err := strconv.ParseUint(strings.TrimSpace(strings.TrimSuffix(strings.TrimSpace(text), "kB")), 10, 40)
			if err != nil {
				return 0, fmt.Errorf("read how much memory is in use: %w", err)
			}
			return kib << 10, nil
		}
	}
	return 0, errors.New("the kernel does not tell how much memory is in use")
}

// giveUpRoot makes a child of root nobody, whose capabilities are gone with that.
// Where root cannot become anybody else, it must have no capabilities.
func giveUpRoot() error {
	if os.Geteuid() != 0 {
		return nil
	}
	err := errors.Join(syscall.Setgroups(nil), syscall.Setresgid(nobody, nobody, nobody), syscall.Setresuid(nobody, nobody, nobody))
	if err == nil {
		return nil
	}
	status, _ := os.ReadFile("/proc/self/status")
	for line := range strings.Lines(string(status)) {
		if caps, ok := strings.CutPrefix(line, "CapEff:"); ok && strings.Trim(strings.TrimSpace(caps), "0") == "" {
			return nil
		}
	}
	return fmt.Errorf("give up the rights of root: %w", err)
}

// filterCalls leaves the system calls that the runtime needs with what is open
// already; every other one fails with EPERM.
func filterCalls() error {
	only := func(name string, conditions ...seccomp.Condition) seccomp.NameWithConditions {
		return seccomp.NameWithConditions{Name: name, Conditions: conditions}
	}
	const namespaces = unix.CLONE_NEWCGROUP | unix.CLONE_NEWIPC | unix.CLONE_NEWNET | unix.CLONE_NEWNS | unix.CLONE_NEWPID | unix.CLONE_NEWUSER | unix.CLONE_NEWUTS
	allowed := seccomp.SyscallGroup{
		Action: seccomp.ActionAllow,
		Names: []string{
			"read", "write", "close", "futex", "nanosleep", "clock_gettime", "clock_nanosleep", "sched_yield", "restart_syscall",
			"munmap", "madvise", "rt_sigaction", "rt_sigprocmask", "rt_sigreturn", "sigaltstack",
			"getpid", "gettid", "getrandom", "epoll_ctl", "epoll_pwait", "exit", "exit_group",
		},
		NamesWithCondtions: []seccomp.NameWithConditions{
			// Memory, but none that is run.
			only("mmap", seccomp.Condition{Argument: 2, Operation: seccomp.BitsNotSet, Value: unix.PROT_EXEC}),
			// Threads, but no processes.
			only("clone", seccomp.Condition{Argument: 0, Operation: seccomp.BitsSet, Value: unix.CLONE_THREAD},
				seccomp.Condition{Argument: 0, Operation: seccomp.BitsNotSet, Value: namespaces}),
			// Signals to its own threads, by which goroutines take turns.
			only("tgkill", seccomp.Condition{Argument: 0, Operation: seccomp.Equal, Value: uint64(unix.Getpid())}),
			// Names of memory for /proc.
			only("prctl", seccomp.Condition{Argument: 0, Operation: seccomp.Equal, Value: unix.PR_SET_VMA}),
		},
	}
	if runtime.GOARCH == "amd64" { // a thread's own memory
		allowed.NamesWithCondtions = append(allowed.NamesWithCondtions,
			only("arch_prctl", seccomp.Condition{Argument: 0, Operation: seccomp.Equal, Value: 0x1002})) // ARCH_SET_FS
	}
	err := seccomp.LoadFilter(seccomp.Filter{
		NoNewPrivs: true, Flag: seccomp.FilterFlagTSync,
		Policy: seccomp.Policy{DefaultAction: seccomp.ActionErrno, Syscalls: []seccomp.SyscallGroup{allowed}},
	})
	if err != nil {
		return fmt.Errorf("seccomp: %w", err)
	}
	return nil
}

// probe tries what must not work any more.
func probe() error {
	if fd, err := unix.Open("/", unix.O_RDONLY|unix.O_DIRECTORY|unix.O_CLOEXEC, 0); err == nil {
		return errors.Join(errors.New("files can still be opened"), unix.Close(fd))
	}
	if fd, err := unix.Socket(unix.AF_INET, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0); err == nil {
		return errors.Join(errors.New("sockets can still be made"), unix.Close(fd))
	}
	return nil
}
