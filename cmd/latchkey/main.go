package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/signal"
	"syscall"

	"github.com/alecthomas/kong"
	kongcompletion "github.com/jotaen/kong-completion"

	"github.com/latchkey-dev/latchkey"
	"github.com/latchkey-dev/latchkey/notify/sandbox"
)

// Exit codes (1-architecture, "Ports, paths, names").
const (
	exitOK      = 0
	exitFailed  = 1
	exitUsage   = 2
	exitCompile = 3 // a policy, or scopes, do not compile
	exitCases   = 4 // a policy does not answer its cases as they require
)

func main() {
	if len(os.Args) == 2 && os.Args[1] == sandbox.Command {
		os.Exit(sandbox.Main()) // a child of serve that runs one script; it reads nothing else of its surroundings
	}
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGINT, syscall.SIGTERM)
	defer stop()
	// Past a limit on file sizes the kernel sends this, and the default is to
	// die; ignored, the write fails and the change is refused.
	signal.Ignore(syscall.SIGXFSZ)
	os.Exit(run(ctx, os.Args[1:], streams{os.Stdin, os.Stdout, os.Stderr}))
}

// streams are the process's own; a test gives others.
type streams struct {
	in       io.Reader
	out, err io.Writer
}

// exitError carries an exit code to run.
type exitError struct {
	code int
	err  error
}

func (e *exitError) Error() string { return e.err.Error() }
func (e *exitError) Unwrap() error { return e.err }

func usage(format string, args ...any) error {
	return &exitError{exitUsage, fmt.Errorf(format, args...)}
}

// run is main without the process: it returns the exit code.
func run(ctx context.Context, args []string, std streams) int {
	if err := errors.Join(readAliases(), readSecretFiles()); err != nil {
		fmt.Fprintln(std.err, "latchkey:", err)
		return exitUsage
	}
	cli := &CLI{}
	exited := -1
	parser, err := newParser(cli, std, func(code int) { exited = code })
	if err != nil {
		fmt.Fprintln(std.err, "latchkey:", err)
		return exitUsage
	}
	kongcompletion.Register(parser)
	kctx, err := parser.Parse(args)
	if exited >= 0 { // --help, --version
		return exited
	}
	if err != nil {
		fmt.Fprintln(std.err, "latchkey:", err)
		if pe, ok := errors.AsType[*kong.ParseError](err); ok && pe.Context != nil {
			sayUsage(parser, pe.Context, std.err)
		}
		return exitUsage
	}
	kctx.BindTo(ctx, (*context.Context)(nil))
	kctx.Bind(std, &cli.Globals)
	if err := kctx.Run(); err != nil {
		fmt.Fprintln(std.err, "latchkey:", err)
		if e, ok := errors.AsType[*latchkey.Error](err); ok {
			for _, f := range e.Faults {
				fmt.Fprintf(std.err, "  %s: %s (%s)\n", orWhole(f.Pointer), f.Detail, f.Code)
			}
		}
		if e, ok := errors.AsType[*exitError](err); ok {
			return e.code
		}
		return exitFailed
	}
	return exitOK
}

// sayUsage tells of a command line that is none how it would be one: what a command
// is made of where it ends too early or goes on as none does, else where to read it.
func sayUsage(parser *kong.Kong, at *kong.Context, out io.Writer) {
	command := at.Selected()
	if command != nil && !command.Leaf() || command == nil && len(at.Args) == 0 {
		parser.Stdout = out
		_ = at.PrintUsage(false)
		return
	}
	path := "latchkey"
	if command != nil {
		path = command.FullPath()
	}
	fmt.Fprintf(out, "Run \"%s --help\" for more.\n", path)
}

func orWhole(pointer string) string {
	if pointer == "" {
		return "(whole)"
	}
	return pointer
}
