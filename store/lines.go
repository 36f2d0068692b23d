package store

import (
	"context"
	"sync"
)

// lines lets the changes of a chain through one at a time, before they take a
// connection: in the database they would wait for one another all the same, but
// there each would keep a connection from the changes of other customers.
type lines struct {
	mu sync.Mutex
	of map[string]*line
}

type line struct {
	turn  chan struct{}
	users int // that have it or wait for it
}

// enter waits for the chain's turn; leave hands it on.
func (l *lines) enter(ctx context.Context, chain string) (leave func(), err error) {
	l.mu.Lock()
	if l.of == nil {
		l.of = map[string]*line{}
	}
	in := l.of[chain]
	if in == nil {
		in = &line{turn: make(chan struct{}, 1)}
		l.of[chain] = in
	}
	in.users++
	l.mu.Unlock()
	quit := func() {
		l.mu.Lock()
		defer l.mu.Unlock()
		if in.users--; in.users == 0 {
			delete(l.of, chain)
		}
	}
	select {
	case in.turn <- struct{}{}:
		return func() { <-in.turn; quit() }, nil
	case <-ctx.Done():
		quit()
		return nil, ctx.Err()
	}
}
