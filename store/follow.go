package store

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/latchkey-dev/latchkey"
)

// hints tell that a chain has gone on, as soon as it has. They are never more
// than hints: who follows a chain looks for itself every now and then.
type hints struct {
	mu      sync.Mutex
	local   func(chain string, seq int64)
	waiting map[string]int64 // to be told to other processes; nil while nobody does
	wake    chan struct{}
}

// OnCommit has hint called after each commit of this process, beside the caller
// of the change; it does not block. It is called before any change is made.
func (db *DB) OnCommit(hint func(chain string, seq int64)) { db.hints.local = hint }

func (db *DB) committed(chain string, seq int64) {
	h := &db.hints
	if h.local != nil {
		h.local(chain, seq)
	}
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.waiting != nil {
		h.waiting[chain] = max(h.waiting[chain], seq)
		select {
		case h.wake <- struct{}{}:
		default:
		}
	}
}

// channel is the one that hints go through, payload lines "<chain> <seq>".
const channel = "latchkey_changes"

// Hints passes hints on between the processes of one database until ctx ends:
// hint is called for the changes of other processes, and of this one, with an
// empty chain where some may have been missed. trouble is told of connections
// that were lost. On SQLite, which has one process, it only waits.
//
// A hint is sent after the commit, by itself: within a change it would put the
// commits of all customers in one line.
func (db *DB) Hints(ctx context.Context, hint func(chain string, seq int64), trouble func(error)) {
	if db.engine.dial == nil {
		<-ctx.Done()
		return
	}
	var loops sync.WaitGroup
	loops.Go(func() { db.persist(ctx, trouble, func(conn *pgx.Conn) error { return listen(ctx, conn, hint) }) })
	loops.Go(func() { db.persist(ctx, trouble, func(conn *pgx.Conn) error { return db.hints.tell(ctx, conn) }) })
	loops.Wait()
}

// persist runs do with a connection of its own, and again with another one when
// that fails.
func (db *DB) persist(ctx context.Context, trouble func(error), do func(*pgx.Conn) error) {
	const least, most = 50 * time.Millisecond, 2 * time.Second
	for pause := least; ; pause = min(2*pause, most) {
		err := func() error {
			conn, err := db.engine.dial(ctx)
			if err != nil {
				return err
			}
			defer func() {
				ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), time.Second)
				defer cancel()
				_ = conn.Close(ctx) // given up either way
			}()
			pause = least
			return do(conn)
		}()
		if ctx.Err() != nil {
			return
		}
		trouble(refine(fmt.Errorf("hints of changes: %w", err)))
		select {
		case <-time.NewTimer(pause + rand.N(pause)).C:
		case <-ctx.Done():
			return
		}
	}
}

// silence is how long a connection may be silent before it is asked whether it
// is still there.
const silence = 15 * time.Second

func listen(ctx context.Context, conn *pgx.Conn, hint func(chain string, seq int64)) error {
	if _, err := conn.Exec(ctx, `LISTEN `+channel); err != nil {
		return err
	}
	hint("", 0) // what was told before is lost
	for {
		wait, cancel := context.WithTimeout(ctx, silence)
		n, err := conn.WaitForNotification(wait)
		cancel()
		switch {
		case err == nil:
			for line := range strings.Lines(n.Payload) {
				chain, number, _ := strings.Cut(strings.TrimSuffix(line, "\n"), " ")
				if seq, err := strconv.ParseInt(number, 10, 64); err == nil && chain != "" {
					hint(chain, seq)
				}
			}
		case ctx.Err() != nil || !errors.Is(err, context.DeadlineExceeded):
			return err
		default:
			wait, cancel := context.WithTimeout(ctx, lockWait)
			err := conn.Ping(wait)
			cancel()
			if err != nil {
				return err
			}
		}
	}
}

// maxPayload is what PostgreSQL takes in one notification, with some to spare.
const maxPayload = 7000

// tell sends the hints of this process, those that came meanwhile together.
func (h *hints) tell(ctx context.Context, conn *pgx.Conn) error {
	h.mu.Lock()
	if h.waiting == nil {
		h.waiting, h.wake = map[string]int64{}, make(chan struct{}, 1)
	}
	wake := h.wake
	h.mu.Unlock()
	for {
		select {
		case <-wake:
		case <-ctx.Done():
			return ctx.Err()
		}
		h.mu.Lock()
		chains := h.waiting
		h.waiting = map[string]int64{}
		h.mu.Unlock()
		var b []byte
		send := func() error {
			wait, cancel := context.WithTimeout(ctx, lockWait)
			defer cancel()
			_, err := conn.Exec(wait, `SELECT pg_notify($1, $2)`, channel, string(b))
			b = b[:0]
			return err
		}
		for chain, seq := range chains {
			if len(b) > 0 && len(b)+len(chain)+22 > maxPayload {
				if err := send(); err != nil {
					return err
				}
			}
			b = strconv.AppendInt(append(append(b, chain...), ' '), seq, 10)
			b = append(b, '\n')
		}
		if len(b) > 0 {
			if err := send(); err != nil {
				return err
			}
		}
	}
}

// Clock is the time by the database's own clock; false where that is this
// process's.
func (db *DB) Clock(ctx context.Context) (latchkey.Instant, bool, error) {
	if db.engine.clock == "" {
		return 0, false, nil
	}
	var now latchkey.Instant
	if err := db.read.QueryRowContext(ctx, db.engine.clock).Scan((*int64)(&now)); err != nil {
		return 0, true, refine(fmt.Errorf("ask the database's clock: %w", err))
	}
	return now, true, nil
}

// Shared reports whether other processes may write to the database too.
func (db *DB) Shared() bool { return db.engine.dial != nil }
