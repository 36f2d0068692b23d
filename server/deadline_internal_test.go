package server

import (
	"net"
	"os"
	"testing"
	"testing/synctest"
	"time"
)

// countingConn counts the deadlines that reach the connection itself.
type countingConn struct {
	net.Conn
	reads, writes int
}

func (c *countingConn) SetReadDeadline(t time.Time) error {
	c.reads++
	return c.Conn.SetReadDeadline(t)
}

func (c *countingConn) SetWriteDeadline(t time.Time) error {
	c.writes++
	return c.Conn.SetWriteDeadline(t)
}

// inBubble runs test with a lazy connection, its other end, and a clock that
// moves when everybody waits.
func inBubble(t *testing.T, test func(t *testing.T, lazy *lazyConn, inner *countingConn, peer net.Conn)) {
	synctest.Test(t, func(t *testing.T) {
		here, there := net.Pipe()
		defer here.Close()
		defer there.Close()
		inner := &countingConn{Conn: here}
		test(t, &lazyConn{Conn: inner}, inner, there)
	})
}

func in(d time.Duration) time.Time { return time.Now().Add(d) }

// waits reports after how long op timed out.
func waits(t *testing.T, op func() (int, error)) time.Duration {
	t.Helper()
	start := time.Now()
	if _, err := op(); !os.IsTimeout(err) {
		t.Fatalf("got %v, want a timeout", err)
	}
	return time.Since(start)
}

func TestLazyConn_ReadsAndWritesEndWhenTheyShould(t *testing.T) {
	inBubble(t, func(t *testing.T, lazy *lazyConn, _ *countingConn, _ net.Conn) {
		b := make([]byte, 1)
		read := func() (int, error) { return lazy.Read(b) }
		write := func() (int, error) { return lazy.Write(b) }
		check := func(name string, set func(time.Time) error, op func() (int, error), deadlines ...time.Duration) {
			t.Helper()
			for _, d := range deadlines {
				if err := set(in(d)); err != nil {
					t.Fatal(err)
				}
			}
			if got, want := waits(t, op), deadlines[len(deadlines)-1]; got != want {
				t.Errorf("%s %v: ended after %v, want %v", name, deadlines, got, want)
			}
		}
		for _, deadlines := range [][]time.Duration{{10 * time.Second}, {10 * time.Second, time.Minute}, {time.Minute, 10 * time.Second}, {10 * time.Second, time.Minute, time.Second}, {0}} {
			check("read", lazy.SetReadDeadline, read, deadlines...)
			check("write", lazy.SetWriteDeadline, write, deadlines...)
			check("read", lazy.SetDeadline, read, deadlines...)
		}
	})
}

func TestLazyConn_MovesAFarDeadlineFreely(t *testing.T) {
	inBubble(t, func(t *testing.T, lazy *lazyConn, inner *countingConn, peer net.Conn) {
		b := make([]byte, 1)
		for range 1000 { // as a server does for each request on a connection
			go func() { _, _ = peer.Write(b) }()
			for _, d := range []time.Duration{10 * time.Second, time.Minute, 10 * time.Second} {
				if err := lazy.SetReadDeadline(in(d)); err != nil {
					t.Fatal(err)
				}
			}
			if _, err := lazy.Read(b); err != nil {
				t.Fatal(err)
			}
		}
		if inner.reads > 1 {
			t.Errorf("%d deadlines were set, want 1", inner.reads)
		}
	})
}

func TestLazyConn_WritesOnWhereADeadlineInForcePassedEarly(t *testing.T) {
	inBubble(t, func(t *testing.T, lazy *lazyConn, _ *countingConn, peer net.Conn) {
		if err := lazy.SetWriteDeadline(in(time.Second)); err != nil {
			t.Fatal(err)
		}
		if err := lazy.SetWriteDeadline(in(time.Minute)); err != nil {
			t.Fatal(err)
		}
		got := make([]byte, 0, 6)
		go func() { // reads slowly, across the deadline that was first in force
			b := make([]byte, 2)
			for range 3 {
				<-time.After(2 * time.Second)
				n, _ := peer.Read(b)
				got = append(got, b[:n]...)
			}
		}()
		if n, err := lazy.Write([]byte("abcdef")); n != 6 || err != nil {
			t.Fatalf("wrote %d, %v", n, err)
		}
		synctest.Wait()
		if string(got) != "abcdef" {
			t.Errorf("the peer read %q", got)
		}
	})
}

func TestLazyConn_WithoutADeadlineWaitsOn(t *testing.T) {
	inBubble(t, func(t *testing.T, lazy *lazyConn, _ *countingConn, peer net.Conn) {
		b := make([]byte, 1)
		for _, at := range []time.Time{in(time.Second), {}} {
			if err := lazy.SetReadDeadline(at); err != nil {
				t.Fatal(err)
			}
		}
		go func() {
			<-time.After(time.Hour)
			_, _ = peer.Write(b)
		}()
		if _, err := lazy.Read(b); err != nil {
			t.Errorf("ended with %v", err)
		}
	})
}
