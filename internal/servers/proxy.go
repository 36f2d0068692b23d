package servers

import (
	"errors"
	"io"
	"net"
	"strings"
	"sync"
	"testing"
	"time"
)

// Proxy stands between a client and a server on TCP and does to what goes
// through it what networks do.
type Proxy struct {
	ln net.Listener

	mu     sync.Mutex
	wake   *sync.Cond
	target string
	mode   mode
	delay  time.Duration
	conns  map[net.Conn]struct{}
	all    sync.WaitGroup
}

type mode int

const (
	passing   mode = iota
	blackhole      // connections stay, and nothing goes through
	refusing       // connections are cut, new ones too
	closed
)

// NewProxy starts one before the server at the address: HOST:PORT or
// unix:/PATH. It ends with the test.
func NewProxy(t testing.TB, target string) *Proxy {
	t.Helper()
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	p := &Proxy{ln: ln, target: target, conns: map[net.Conn]struct{}{}}
	p.wake = sync.NewCond(&p.mu)
	p.all.Go(p.accept)
	t.Cleanup(func() {
		_ = ln.Close()
		p.set(closed)
		p.all.Wait()
	})
	return p
}

// Addr is where clients connect to.
func (p *Proxy) Addr() string { return p.ln.Addr().String() }

// Pass lets everything through.
func (p *Proxy) Pass() { p.set(passing) }

// Blackhole lets nothing through, without a word: connections stay open.
func (p *Proxy) Blackhole() { p.set(blackhole) }

// Refuse cuts all connections, and new ones as they come.
func (p *Proxy) Refuse() { p.set(refusing) }

// Cut ends the present connections; new ones go through.
func (p *Proxy) Cut() {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.cut()
}

// To puts another server in the place of the present one, for connections that
// are still to come.
func (p *Proxy) To(target string) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.target = target
}

// Delay lets each piece of what goes through wait.
func (p *Proxy) Delay(d time.Duration) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.delay = d
}

func (p *Proxy) set(m mode) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.mode = m
	if m == refusing || m == closed {
		p.cut()
	}
	p.wake.Broadcast()
}

// cut ends all connections; p is locked.
func (p *Proxy) cut() {
	for c := range p.conns {
		_ = c.Close()
	}
	clear(p.conns)
	p.wake.Broadcast()
}

func (p *Proxy) accept() {
	for {
		client, err := p.ln.Accept()
		if errors.Is(err, net.ErrClosed) {
			return
		}
		if err != nil {
			continue
		}
		p.mu.Lock()
		refused := p.mode == refusing || p.mode == closed
		p.conns[client] = struct{}{}
		p.mu.Unlock()
		if refused {
			_ = client.Close()
			continue
		}
		p.all.Go(func() { p.serve(client) })
	}
}

func (p *Proxy) serve(client net.Conn) {
	defer client.Close()
	p.mu.Lock()
	network, target := "tcp", p.target
	p.mu.Unlock()
	if path, ok := strings.CutPrefix(target, "unix:"); ok {
		network, target = "unix", path
	}
	server, err := net.DialTimeout(network, target, patience)
	if err != nil {
		return
	}
	defer server.Close()
	p.mu.Lock()
	p.conns[server] = struct{}{}
	p.mu.Unlock()
	var both sync.WaitGroup
	both.Go(func() { p.copy(client, server) })
	both.Go(func() { p.copy(server, client) })
	both.Wait()
	p.mu.Lock()
	delete(p.conns, client)
	delete(p.conns, server)
	p.mu.Unlock()
}

// copy passes on what comes, as the mode says at that time.
func (p *Proxy) copy(from, to net.Conn) {
	defer to.Close()
	buf := make([]byte, 32<<10)
	for {
		n, err := from.Read(buf)
		if n > 0 {
			if !p.through(from) {
				return
			}
			if _, err := to.Write(buf[:n]); err != nil {
				return
			}
		}
		if err != nil {
			if !errors.Is(err, io.EOF) {
				_ = from.Close()
			}
			return
		}
	}
}

// through waits until what has come may go on, and reports whether it may.
func (p *Proxy) through(from net.Conn) bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	if d := p.delay; d > 0 {
		p.mu.Unlock()
		<-time.NewTimer(d).C
		p.mu.Lock()
	}
	for p.mode == blackhole {
		if _, open := p.conns[from]; !open {
			return false
		}
		p.wake.Wait()
	}
	_, open := p.conns[from]
	return open
}
