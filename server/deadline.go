package server

import (
	"errors"
	"net"
	"os"
	"time"
)

// timeouts bound how long a connection may keep its worker. See Config.
type timeouts struct{ read, write, idle time.Duration }

// timedListener makes connections that keep the timeouts themselves. A server
// that sets its deadlines for every request spends a tenth of a decision on
// them, and hardly one of them ever passes.
type timedListener struct {
	net.Listener
	timeouts
	now func() time.Time
}

// Accept implements net.Listener.
func (l timedListener) Accept() (net.Conn, error) {
	inner, err := l.Listener.Accept()
	if err != nil {
		return nil, err
	}
	now := l.now()
	err = errors.Join(inner.SetReadDeadline(now.Add(l.read)), inner.SetWriteDeadline(now.Add(l.write)))
	if err != nil { // it is gone already; reading from it will say so
		return inner, nil
	}
	return &timedConn{Conn: inner, timeouts: l.timeouts, now: l.now, renewed: true}, nil
}

// timedConn looks at the clock only when a deadline passes. The one in force
// may be left from an earlier request; then it passes early, and is renewed
// once for the request, the wait or the reply that it was too early for. So:
//
//   - the first request arrives within read, any other within twice that,
//     however slowly it trickles;
//   - the next request begins within idle, and what is left of an earlier
//     deadline;
//   - a reply leaves within write, and what is left likewise.
//
// One goroutine reads and writes, as fasthttp does.
type timedConn struct {
	net.Conn
	timeouts
	now func() time.Time

	idling       bool // nothing of a request has arrived since the last reply
	renewed      bool // the read deadline is this request's, or this wait's, own
	writeRenewed bool
}

// Read implements net.Conn.
func (c *timedConn) Read(b []byte) (int, error) {
	for {
		n, err := c.Conn.Read(b)
		if n > 0 {
			if c.idling {
				// What was renewed was for the wait, and may lie far ahead.
				if c.idling = false; c.renewed {
					return n, c.renew(c.read)
				}
			}
			return n, err
		}
		if err == nil || !os.IsTimeout(err) || c.renewed {
			return n, err
		}
		wait := c.read
		if c.idling {
			wait = c.idle
		}
		if err := c.renew(wait); err != nil {
			return 0, err
		}
	}
}

func (c *timedConn) renew(wait time.Duration) error {
	c.renewed = true
	return c.SetReadDeadline(c.now().Add(wait))
}

// Write implements net.Conn. What is read next is another request.
func (c *timedConn) Write(b []byte) (written int, err error) {
	c.idling, c.renewed, c.writeRenewed = true, false, false
	for {
		n, err := c.Conn.Write(b[written:])
		written += n
		if err == nil || !os.IsTimeout(err) || c.writeRenewed {
			return written, err
		}
		c.writeRenewed = true
		if err := c.SetWriteDeadline(c.now().Add(c.write)); err != nil {
			return written, err
		}
	}
}
