package servers

import (
	"fmt"
	"math/rand/v2"
	"net"
	"strconv"
	"sync"
)

// Ports are handed out from below the range that the kernel takes its own from
// (32768 on Linux), in blocks: a process has a block while it listens on its
// first port, so no two processes that ask here are given the same port.
const (
	firstPort = 10_000
	blockSize = 200
	blocks    = 100
)

var ports struct {
	mu     sync.Mutex
	holder net.Listener // keeps the block
	next   int          // in the block, 1 to blockSize-1
}

// FreeAddress is a loopback address, HOST:PORT, for a server that is started in
// another process: nobody listens on it, and nobody else is told it before the
// whole block has been handed out. Safe for concurrent use.
func FreeAddress() (string, error) {
	ports.mu.Lock()
	defer ports.mu.Unlock()
	if ports.holder == nil {
		ln, err := claim()
		if err != nil {
			return "", err
		}
		ports.holder = ln
	}
	first := ports.holder.Addr().(*net.TCPAddr).Port
	for range blockSize {
		ports.next = ports.next%(blockSize-1) + 1
		ln, err := listenAt(first + ports.next)
		if err == nil {
			return ln.Addr().String(), ln.Close()
		}
	}
	return "", fmt.Errorf("no port is free from %d to %d", first+1, first+blockSize-1)
}

func claim() (net.Listener, error) {
	var last error
	for _, block := range rand.Perm(blocks) {
		ln, err := listenAt(firstPort + block*blockSize)
		if err == nil {
			return ln, nil
		}
		last = err
	}
	return nil, fmt.Errorf("no block of ports is free: %w", last)
}

func listenAt(port int) (net.Listener, error) {
	return net.Listen("tcp", net.JoinHostPort("127.0.0.1", strconv.Itoa(port)))
}
