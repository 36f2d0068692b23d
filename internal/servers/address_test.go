package servers_test

import (
	"net"
	"testing"

	"github.com/latchkey-dev/latchkey/internal/servers"
)

// Two that ask at the same time start servers of their own: whoever waited for
// one to answer would else be answered by the other.
func TestFreeAddress_IsGivenOnce(t *testing.T) {
	seen := map[string]bool{}
	for range 100 {
		at, err := servers.FreeAddress()
		if err != nil {
			t.Fatal(err)
		}
		if seen[at] {
			t.Fatalf("%s is given again", at)
		}
		seen[at] = true
	}
	at, err := servers.FreeAddress()
	if err != nil {
		t.Fatal(err)
	}
	ln, err := net.Listen("tcp", at)
	if err != nil {
		t.Fatalf("nobody is to listen there: %v", err)
	}
	defer ln.Close()
	for range 250 { // more than a block: what is in use is passed over
		next, err := servers.FreeAddress()
		if err != nil {
			t.Fatal(err)
		}
		if next == at {
			t.Fatalf("%s is given while somebody listens there", at)
		}
	}
}
