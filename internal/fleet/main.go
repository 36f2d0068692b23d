package main

import (
	"context"
	"flag"
	"fmt"
	"os"
	"os/signal"
	"syscall"
	"testing"

	"github.com/latchkey-dev/latchkey/internal/page"
)

// settings are the command line.
type settings struct {
	binary string
	write  string
	small  bool
	large  bool
	many   int
}

func main() {
	var s settings
	flag.StringVar(&s.binary, "bin", "bin/latchkey", "latchkey as built")
	flag.StringVar(&s.write, "write", "", "write the page to `FILE` as Markdown")
	flag.BoolVar(&s.small, "small", false, "in half a minute")
	flag.BoolVar(&s.large, "large", false, "a million keys and a million grants")
	flag.IntVar(&s.many, "records", 1_000_000, "keys, and as many grants, of -large")
	flag.Parse()
	if flag.NArg() > 0 || s.small && s.large {
		flag.Usage()
		os.Exit(2)
	}
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGINT, syscall.SIGTERM)
	defer stop()
	if err := run(ctx, s); err != nil {
		fmt.Fprintln(os.Stderr, "fleet:", err)
		os.Exit(1)
	}
}

func run(ctx context.Context, s settings) error {
	var p *page.Page
	err := hosted(ctx, func(tb testing.TB) error {
		switch {
		case s.large:
			p = large(tb, s.binary, s.many)
		case s.small:
			p = measure(tb, s.binary, small).page()
		default:
			p = measure(tb, s.binary, full).page()
		}
		return nil
	})
	if p != nil {
		fmt.Print("\n", p.Text())
	}
	if err != nil || s.write == "" || p == nil {
		return err
	}
	return os.WriteFile(s.write, []byte(p.Markdown()), 0o644)
}
