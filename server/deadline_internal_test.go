package server

import (
	"net"
	"os"
	"testing"
	"testing/synctest"
	"time"
)

const (
	testRead  = 10 * time.Second
	testWrite = 20 * time.Second
	testIdle  = time.Minute
)

// oneConn is a listener with one connection.
type oneConn struct {
	net.Listener
	conn net.Conn
}

func (l oneConn) Accept() (net.Conn, error) { return l.conn, nil }

// timed runs test with a connection under the timeouts above, its other end,
// and a clock that moves when everybody waits. looks counts the looks at it.
func timed(t *testing.T, test func(t *testing.T, conn, peer net.Conn, looks *int)) {
	synctest.Test(t, func(t *testing.T) {
		here, there := net.Pipe()
		defer func() {
			_ = here.Close()
			_ = there.Close()
			<-time.After(time.Minute) // for the peers to notice; no real time passes
		}()
		looks := 0
		ln := timedListener{oneConn{conn: here}, timeouts{testRead, testWrite, testIdle}, func() time.Time { looks++; return time.Now() }}
		conn, err := ln.Accept()
		if err != nil {
			t.Fatal(err)
		}
		test(t, conn, there, &looks)
	})
}

// exchange is one request and its reply, at once.
func exchange(t *testing.T, conn, peer net.Conn) {
	t.Helper()
	go func() {
		_, _ = peer.Write([]byte("q"))
		_, _ = peer.Read(make([]byte, 1))
	}()
	if _, err := conn.Read(make([]byte, 1)); err != nil {
		t.Fatal(err)
	}
	if _, err := conn.Write([]byte("a")); err != nil {
		t.Fatal(err)
	}
	synctest.Wait()
}

// trickle sends a byte a second until nobody reads.
func trickle(peer net.Conn) {
	for {
		if _, err := peer.Write([]byte("x")); err != nil {
			return
		}
		<-time.After(time.Second)
	}
}

// drain reads until it fails, and returns after how long and how.
func drain(conn net.Conn) (time.Duration, error) {
	start := time.Now()
	for {
		if _, err := conn.Read(make([]byte, 64)); err != nil {
			return time.Since(start), err
		}
	}
}

func within(t *testing.T, what string, took time.Duration, err error, least, most time.Duration) {
	t.Helper()
	if !os.IsTimeout(err) || took < least || took > most {
		t.Errorf("%s: ended after %v with %v, want a timeout between %v and %v", what, took, err, least, most)
	}
}

func TestTimedConn_EndsARequestThatNeverFinishes(t *testing.T) {
	timed(t, func(t *testing.T, conn, peer net.Conn, _ *int) {
		took, err := drain(conn)
		within(t, "nothing is sent", took, err, testRead, testRead)
	})
	timed(t, func(t *testing.T, conn, peer net.Conn, _ *int) {
		go trickle(peer)
		took, err := drain(conn)
		within(t, "the first request trickles", took, err, testRead, testRead)
		_ = conn.Close()
	})
	for _, pause := range []time.Duration{0, 3 * time.Second, 15 * time.Second, 65 * time.Second} {
		timed(t, func(t *testing.T, conn, peer net.Conn, _ *int) {
			exchange(t, conn, peer)
			go func() {
				<-time.After(pause)
				trickle(peer)
			}()
			took, err := drain(conn)
			within(t, "a later request trickles, after "+pause.String(), took, err, pause+testRead, pause+2*testRead)
			_ = conn.Close()
		})
	}
}

func TestTimedConn_EndsAWaitForTheNextRequest(t *testing.T) {
	for range 3 {
		timed(t, func(t *testing.T, conn, peer net.Conn, _ *int) {
			for range 3 {
				exchange(t, conn, peer)
			}
			took, err := drain(conn)
			within(t, "no further request", took, err, testIdle, testIdle+testRead)
		})
	}
}

func TestTimedConn_EndsAReplyThatNobodyReads(t *testing.T) {
	timed(t, func(t *testing.T, conn, peer net.Conn, _ *int) {
		exchange(t, conn, peer)
		start := time.Now()
		_, err := conn.Write([]byte("abc"))
		within(t, "a reply", time.Since(start), err, testWrite, 2*testWrite)
	})
}

func TestTimedConn_WritesAWholeReplyAcrossAnEarlyDeadline(t *testing.T) {
	timed(t, func(t *testing.T, conn, peer net.Conn, _ *int) {
		exchange(t, conn, peer)
		var got []byte
		go func() {
			for range 3 {
				<-time.After(9 * time.Second) // the first deadline lies at 20 s
				b := make([]byte, 2)
				n, _ := peer.Read(b)
				got = append(got, b[:n]...)
			}
		}()
		if n, err := conn.Write([]byte("abcdef")); n != 6 || err != nil {
			t.Fatalf("wrote %d, %v", n, err)
		}
		synctest.Wait()
		if string(got) != "abcdef" {
			t.Errorf("the peer read %q", got)
		}
	})
}

func TestTimedConn_DoesNotLookAtTheClockForEveryRequest(t *testing.T) {
	timed(t, func(t *testing.T, conn, peer net.Conn, looks *int) {
		for range 1000 {
			exchange(t, conn, peer)
		}
		if *looks > 1 {
			t.Errorf("%d looks for 1000 requests, want the one at the start", *looks)
		}
	})
}
