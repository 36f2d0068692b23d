package policies

import (
	"cmp"
	"hash/maphash"
	"net/netip"
	"slices"
	"strconv"
	"strings"

	"github.com/gaissmai/bart"
	"github.com/tidwall/btree"

	"github.com/latchkey-dev/latchkey/scopes"
)

// Set is a named list of values of one entity type, as one version of it was.
// Immutable, and persistent: a changed set shares all but a few nodes with the
// one before, so that a set of a million values changes by one at the cost of
// one. Membership takes logarithmic time at most and copies nothing.
type Set struct {
	Type scopes.EntityType
	// Version is the sequence number of the change that made it.
	Version int64

	texts   *btree.BTreeG[text]   // of strings
	numbers *btree.BTreeG[uint64] // of uints
	blocks  *bart.Table[ipForm]   // of ips: addresses as blocks of one
	size    int
}

// text is a value under its hash: a search that compares hashes, which lie in
// the nodes, goes to where the texts lie but once. The seed is the process's
// own, so nobody can make texts of one hash.
type text struct {
	hash  uint64
	value string
}

var seed = maphash.MakeSeed()

func hashed(value string) text { return text{maphash.String(seed, value), value} }

func compareTexts(a, b text) int {
	if c := cmp.Compare(a.hash, b.hash); c != 0 {
		return c
	}
	return strings.Compare(a.value, b.value)
}

func lessText(a, b text) bool {
	if a.hash != b.hash {
		return a.hash < b.hash
	}
	return a.value < b.value
}

// ipForm says in which forms a block is listed: 10.0.0.1 and 10.0.0.1/32 are
// two values that hold the same address.
type ipForm uint8

const (
	asAddress ipForm = 1 << iota
	asBlock
)

var unlocked = btree.Options{NoLocks: true}

// NewSet makes a set of canonical values ([scopes.EntityType.Canonical]). A
// value that is not canonical is left out.
func NewSet(t scopes.EntityType, version int64, values func(yield func(string) bool)) *Set {
	s := &Set{Type: t, Version: version}
	switch t {
	case scopes.EntityUint:
		s.numbers = btree.NewBTreeGOptions(func(a, b uint64) bool { return a < b }, unlocked)
	case scopes.EntityIP:
		s.blocks = &bart.Table[ipForm]{}
		for v := range values {
			if block, form, ok := parseBlock(v); ok {
				s.blocks.Modify(block, func(had ipForm, _ bool) (ipForm, bool) {
					s.count(had, had|form)
					return had | form, false
				})
			}
		}
		return s
	default:
		s.texts = btree.NewBTreeGOptions(lessText, unlocked)
		var list []text
		for v := range values {
			list = append(list, hashed(strings.Clone(v)))
		}
		slices.SortFunc(list, compareTexts)
		for _, t := range list { // in order: nodes are filled and not split
			s.texts.Load(t)
		}
		s.size = s.texts.Len()
		return s
	}
	for v := range values {
		s.add(v)
	}
	return s
}

// With makes the set with some values removed and then some added, all of them
// canonical. One call at a time may be made on a set; readers never wait.
func (s *Set) With(version int64, add, remove []string) *Set {
	next := &Set{Type: s.Type, Version: version, size: s.size, blocks: s.blocks}
	if s.texts != nil {
		next.texts = s.texts.Copy()
	}
	if s.numbers != nil {
		next.numbers = s.numbers.Copy()
	}
	for _, v := range remove {
		next.remove(v)
	}
	for _, v := range add {
		next.add(v)
	}
	return next
}

func (s *Set) add(v string) {
	switch s.Type {
	case scopes.EntityUint:
		if n, err := strconv.ParseUint(v, 10, 64); err == nil {
			s.numbers.Set(n)
			s.size = s.numbers.Len()
		}
	case scopes.EntityIP:
		if block, form, ok := parseBlock(v); ok {
			s.blocks = s.blocks.ModifyPersist(block, func(had ipForm, _ bool) (ipForm, bool) {
				s.count(had, had|form)
				return had | form, false
			})
		}
	default:
		s.texts.Set(hashed(strings.Clone(v)))
		s.size = s.texts.Len()
	}
}

func (s *Set) remove(v string) {
	switch s.Type {
	case scopes.EntityUint:
		if n, err := strconv.ParseUint(v, 10, 64); err == nil {
			s.numbers.Delete(n)
			s.size = s.numbers.Len()
		}
	case scopes.EntityIP:
		if block, form, ok := parseBlock(v); ok {
			s.blocks = s.blocks.ModifyPersist(block, func(had ipForm, _ bool) (ipForm, bool) {
				s.count(had, had&^form)
				return had &^ form, had&^form == 0
			})
		}
	default:
		s.texts.Delete(hashed(v))
		s.size = s.texts.Len()
	}
}

// count keeps the number of values as the forms of one block change.
func (s *Set) count(before, after ipForm) {
	s.size += int(after&1+after>>1) - int(before&1+before>>1)
}

func parseBlock(v string) (netip.Prefix, ipForm, bool) {
	if !strings.Contains(v, "/") {
		addr, err := netip.ParseAddr(v)
		return netip.PrefixFrom(addr, addr.BitLen()), asAddress, err == nil && addr.Zone() == ""
	}
	block, err := netip.ParsePrefix(v)
	return block, asBlock, err == nil && block == block.Masked()
}

// Values visits all values, in no particular order.
func (s *Set) Values(visit func(value string) bool) {
	switch s.Type {
	case scopes.EntityUint:
		s.numbers.Scan(func(n uint64) bool { return visit(strconv.FormatUint(n, 10)) })
	case scopes.EntityIP:
		for block, form := range s.blocks.All() {
			if form&asAddress != 0 && !visit(block.Addr().String()) {
				return
			}
			if form&asBlock != 0 && !visit(block.String()) {
				return
			}
		}
	default:
		s.texts.Scan(func(t text) bool { return visit(t.value) })
	}
}

// Len counts the values.
func (s *Set) Len() int { return s.size }

// Contains reports whether a value is in the set, in a block of it for an ip.
// A value that is not one of the set's type is neither in it nor out: ok is
// false.
func (s *Set) Contains(value string) (member, ok bool) {
	switch s.Type {
	case scopes.EntityUint:
		if _, ok := s.Type.Canonical(value); !ok {
			return false, false
		}
		n, err := strconv.ParseUint(value, 10, 64)
		if err != nil {
			return false, false
		}
		return s.containsNumber(n), true
	case scopes.EntityIP:
		return s.containsIP(value)
	default:
		if _, ok := s.Type.Canonical(value); !ok {
			return false, false
		}
		_, member = s.texts.Get(hashed(value))
		return member, true
	}
}

// ContainsInt is Contains of an integer's decimal text.
func (s *Set) ContainsInt(value int64) (member, ok bool) {
	if s.Type == scopes.EntityUint {
		return value >= 0 && s.containsNumber(uint64(value)), value >= 0
	}
	var buf [20]byte
	return s.Contains(string(strconv.AppendInt(buf[:0], value, 10)))
}

func (s *Set) containsNumber(n uint64) bool {
	_, member := s.numbers.Get(n)
	return member
}

func (s *Set) containsIP(value string) (member, ok bool) {
	if addr, err := netip.ParseAddr(value); err == nil && addr.Zone() == "" {
		return s.blocks.Contains(addr.Unmap()), true
	}
	canonical, ok := s.Type.Canonical(value)
	if !ok {
		return false, false
	}
	block, _, ok := parseBlock(canonical)
	if !ok {
		return false, false
	}
	_, member = s.blocks.LookupPrefix(block)
	return member, true
}
