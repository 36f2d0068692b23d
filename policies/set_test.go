package policies_test

import (
	"fmt"
	"net/netip"
	"slices"
	"strconv"
	"testing"

	"pgregory.net/rapid"

	"github.com/latchkey-dev/latchkey/policies"
	"github.com/latchkey-dev/latchkey/scopes"
)

func TestSet_Membership(t *testing.T) {
	ips := policies.NewSet(scopes.EntityIP, 1, slices.Values([]string{"10.0.0.0/8", "192.168.1.7", "2001:db8::/32", "203.0.113.9/32"}))
	uints := policies.NewSet(scopes.EntityUint, 1, slices.Values([]string{"0", "7", "18446744073709551615"}))
	texts := policies.NewSet(scopes.EntityString, 1, slices.Values([]string{"", "a", "7"}))
	tests := []struct {
		set        *policies.Set
		value      string
		member, ok bool
	}{
		{ips, "10.255.0.1", true, true},
		{ips, "11.0.0.1", false, true},
		{ips, "192.168.1.7", true, true},
		{ips, "::ffff:10.1.2.3", true, true},
		{ips, "2001:DB8:0::1", true, true},
		{ips, "203.0.113.9", true, true},
		{ips, "10.1.0.0/16", true, true},
		{ips, "0.0.0.0/0", false, true},
		{ips, "10.1.2.3/16", false, false}, // host bits
		{ips, "fe80::1%eth0", false, false},
		{ips, "10.0.0.256", false, false},
		{ips, "", false, false},
		{uints, "7", true, true},
		{uints, "18446744073709551615", true, true},
		{uints, "8", false, true},
		{uints, "07", false, false},
		{uints, "-1", false, false},
		{uints, "18446744073709551616", false, false},
		{texts, "", true, true},
		{texts, "a", true, true},
		{texts, "A", false, true},
		{texts, "a\x00", false, false},
	}
	for _, tt := range tests {
		member, ok := tt.set.Contains(tt.value)
		if member != tt.member || ok != tt.ok {
			t.Errorf("%s set, %q: %v, %v, want %v, %v", tt.set.Type, tt.value, member, ok, tt.member, tt.ok)
		}
	}
	for value, want := range map[int64][2]bool{7: {true, true}, 8: {false, true}, -1: {false, false}} {
		if member, ok := uints.ContainsInt(value); member != want[0] || ok != want[1] {
			t.Errorf("uint set, %d: %v, %v", value, member, ok)
		}
	}
	if member, ok := texts.ContainsInt(7); !member || !ok {
		t.Errorf("string set, integer 7: %v, %v", member, ok)
	}
}

// A set changed step by step holds what a map holds that is changed alike, and
// no version that came before changes with it.
func TestSet_VersionsAreAsAMapWouldBe(t *testing.T) {
	pools := map[scopes.EntityType][]string{
		scopes.EntityString: {"", "a", "b", "ab", "é"},
		scopes.EntityUint:   {"0", "1", "2", "10", "18446744073709551615"},
		scopes.EntityIP:     {"10.0.0.1", "10.0.0.1/32", "10.0.0.0/8", "10.0.0.0/24", "::1", "::/0", "0.0.0.0/0"},
	}
	rapid.Check(t, func(t *rapid.T) {
		kind := rapid.SampledFrom([]scopes.EntityType{scopes.EntityString, scopes.EntityUint, scopes.EntityIP}).Draw(t, "type")
		values := rapid.SliceOfN(rapid.SampledFrom(pools[kind]), 0, 4)
		type version struct {
			set  *policies.Set
			want map[string]bool
		}
		first := map[string]bool{}
		for _, v := range values.Draw(t, "values") {
			first[v] = true
		}
		start := slices.Collect(func(yield func(string) bool) {
			for v := range first {
				if !yield(v) {
					return
				}
			}
		})
		all := []version{{policies.NewSet(kind, 0, slices.Values(start)), first}}
		for i := range rapid.IntRange(0, 8).Draw(t, "steps") {
			last := all[len(all)-1]
			add, remove := values.Draw(t, "add"), values.Draw(t, "remove")
			want := map[string]bool{}
			for v := range last.want {
				want[v] = true
			}
			for _, v := range remove {
				delete(want, v)
			}
			for _, v := range add {
				want[v] = true
			}
			all = append(all, version{last.set.With(int64(i), add, remove), want})
		}
		for i, v := range all {
			if v.set.Len() != len(v.want) {
				t.Fatalf("version %d holds %d values, want %d", i, v.set.Len(), len(v.want))
			}
			for _, value := range pools[kind] {
				want := v.want[value]
				if kind == scopes.EntityIP {
					want = covered(v.want, value)
				}
				if got, ok := v.set.Contains(value); got != want || !ok {
					t.Fatalf("version %d: %q is %v, %v, want %v", i, value, got, ok, want)
				}
			}
		}
	})
}

// covered asks every block in turn.
func covered(blocks map[string]bool, value string) bool {
	prefix := func(s string) netip.Prefix {
		if p, err := netip.ParsePrefix(s); err == nil {
			return p
		}
		a := netip.MustParseAddr(s)
		return netip.PrefixFrom(a, a.BitLen())
	}
	p := prefix(value)
	for b := range blocks {
		if q := prefix(b); q.Bits() <= p.Bits() && q.Contains(p.Addr()) {
			return true
		}
	}
	return false
}

func TestSet_AskedWhileItChanges(t *testing.T) {
	s := policies.NewSet(scopes.EntityString, 0, slices.Values([]string{"always"}))
	versions, done := make(chan *policies.Set, 64), make(chan error, 4)
	for range 4 {
		go func() {
			for v := range versions {
				if member, ok := v.Contains("always"); !member || !ok {
					done <- fmt.Errorf("version %d lost a value", v.Version)
					return
				}
			}
			done <- nil
		}()
	}
	for i := range 2000 {
		s = s.With(int64(i), []string{strconv.Itoa(i)}, []string{strconv.Itoa(i - 5)})
		versions <- s
	}
	close(versions)
	for range 4 {
		if err := <-done; err != nil {
			t.Error(err)
		}
	}
}

// A million values: what is counted is allocations, which do not depend on the
// machine.
func BenchmarkSet(b *testing.B) {
	for _, n := range []int{1000, 1_000_000} {
		s := policies.NewSet(scopes.EntityString, 0, func(yield func(string) bool) {
			for i := range n {
				if !yield(fmt.Sprintf("value-%09d", i)) {
					return
				}
			}
		})
		probes := make([]string, 4096)
		for i := range probes {
			probes[i] = fmt.Sprintf("value-%09d", (i*7919)%n)
		}
		b.Run(fmt.Sprintf("contains/%d", n), func(b *testing.B) {
			b.ReportAllocs()
			for i := range b.N {
				s.Contains(probes[i%len(probes)])
			}
		})
		b.Run(fmt.Sprintf("with/%d", n), func(b *testing.B) {
			b.ReportAllocs()
			add := []string{"another"}
			for range b.N {
				s.With(1, add, nil)
			}
		})
	}
}
