package server

import (
	"net"
	"os"
	"time"
)

// lazyListener makes connections whose deadlines are cheap to move. A server
// sets three for every request, and each costs a tenth of a whole decision,
// though hardly one of them ever passes.
type lazyListener struct{ net.Listener }

// Accept implements net.Listener.
func (l lazyListener) Accept() (net.Conn, error) {
	c, err := l.Listener.Accept()
	if err != nil {
		return nil, err
	}
	return &lazyConn{Conn: c}, nil
}

// lazyConn leaves an earlier deadline in force when it is asked for a later
// one, and moves it only when it passes: reads and writes end when they should,
// never later. A shorter deadline is set at once. As net/http and fasthttp use
// a connection, one goroutine reads and one writes; each has its own side.
type lazyConn struct {
	net.Conn
	read, write deadline
}

// deadline is what was asked for, and what is in force: that, or earlier.
type deadline struct{ asked, inForce time.Time }

// ask reports whether the deadline in force must be set anew.
func (d *deadline) ask(t time.Time) bool {
	d.asked = t
	if !t.IsZero() && !d.inForce.IsZero() && !t.Before(d.inForce) {
		return false
	}
	d.inForce = t
	return true
}

// passed reports whether err is a deadline in force that passed before the one
// that was asked for, which then takes its place.
func (d *deadline) passed(err error, set func(time.Time) error) bool {
	if err == nil || !os.IsTimeout(err) || d.asked.Equal(d.inForce) {
		return false
	}
	d.inForce = d.asked
	return set(d.asked) == nil
}

// SetReadDeadline implements net.Conn.
func (c *lazyConn) SetReadDeadline(t time.Time) error {
	if !c.read.ask(t) {
		return nil
	}
	return c.Conn.SetReadDeadline(t)
}

// SetWriteDeadline implements net.Conn.
func (c *lazyConn) SetWriteDeadline(t time.Time) error {
	if !c.write.ask(t) {
		return nil
	}
	return c.Conn.SetWriteDeadline(t)
}

// SetDeadline implements net.Conn: both, at once.
func (c *lazyConn) SetDeadline(t time.Time) error {
	c.read, c.write = deadline{t, t}, deadline{t, t}
	return c.Conn.SetDeadline(t)
}

// Read implements net.Conn.
func (c *lazyConn) Read(b []byte) (int, error) {
	for {
		n, err := c.Conn.Read(b)
		if n > 0 || !c.read.passed(err, c.Conn.SetReadDeadline) {
			return n, err
		}
	}
}

// Write implements net.Conn.
func (c *lazyConn) Write(b []byte) (written int, err error) {
	for {
		n, err := c.Conn.Write(b[written:])
		written += n
		if !c.write.passed(err, c.Conn.SetWriteDeadline) {
			return written, err
		}
	}
}
