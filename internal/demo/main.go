// Command demo starts a latchkey server of its own and walks the worked
// example of access keys over real HTTP: what the example key may do, what it
// may not do, restrictions on set values, what a key cannot be made of, the
// limit of ten, revocation and expiry.
//
// It prints a table of what was tried, what was expected and what came back,
// and exits with 1 if anything differs. What the example says of policies
// and sets is asked of /decision, as a service that guards them would, and the
// table says so.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"os/signal"
	"syscall"
	"text/tabwriter"
)

func main() {
	bin := flag.String("bin", "bin/latchkey", "the latchkey binary to start")
	flag.Parse()
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGINT, syscall.SIGTERM)
	defer stop()
	if err := run(ctx, *bin, os.Stdout); err != nil {
		fmt.Fprintln(os.Stderr, "demo:", err)
		os.Exit(1)
	}
}

// errDiffers is what run returns when the server did something else than the
// example says.
var errDiffers = errors.New("the server does not do what the example says")

// run walks the example on a fresh server and prints the table.
func run(ctx context.Context, bin string, out io.Writer) error {
	srv, err := startServer(ctx, bin)
	if err != nil {
		return err
	}
	w := &walk{ctx: ctx, url: srv.url, root: srv.rootKey}
	err = errors.Join(w.everything(), srv.stop())
	return errors.Join(w.print(out), err)
}

// row is one thing that was tried.
type row struct {
	part, tried, how, want, got string
}

func (r row) ok() bool { return r.want == r.got }

// print writes the table; errDiffers when a row is not as expected.
func (w *walk) print(out io.Writer) error {
	differ := 0
	for i := 0; i < len(w.rows); {
		part := w.rows[i].part
		fmt.Fprintf(out, "\n%s\n", part)
		table := tabwriter.NewWriter(out, 0, 0, 2, ' ', 0)
		fmt.Fprintln(table, "  TRIED\tHOW\tEXPECTED\tGOT\tOK")
		for ; i < len(w.rows) && w.rows[i].part == part; i++ {
			r, ok := w.rows[i], "ok"
			if !r.ok() {
				ok = "DIFFERS"
				differ++
			}
			fmt.Fprintf(table, "  %s\t%s\t%s\t%s\t%s\n", r.tried, r.how, r.want, r.got, ok)
		}
		if err := table.Flush(); err != nil {
			return err
		}
	}
	fmt.Fprintf(out, "\n%d tried, %d as expected.\n", len(w.rows), len(w.rows)-differ)
	fmt.Fprintln(out, "\"HTTP\" rows called the endpoint itself. \"/decision\" rows asked whether the key may do it,\nas a service that guards policies and sets of its own would.")
	if differ > 0 {
		return errDiffers
	}
	return nil
}
