package policies

import (
	"encoding/binary"
	"hash/maphash"
	"slices"
	"sync"
	"sync/atomic"

	"github.com/latchkey-dev/latchkey"
	"github.com/latchkey-dev/latchkey/internal/strictjson"
)

// The memo keeps the answers of Rego policies, whose built-in functions are
// pure: what a policy answers follows from what it reads. Its key is, byte for
// byte, the program (one version of one policy), the parts of the question that
// the program can read, and the versions of the sets that it reads. It needs no
// end: a grant that ends is in the key of no later question, and a program that
// reads the time is not memoised. Errors are never kept.
const (
	memoShards  = 16
	memoEntries = 1024    // of one generation of one shard: 32,768 in all
	memoBytes   = 1 << 20 // of one generation of one shard: 32 MiB in all
	memoKey     = 4 << 10 // a longer key is not worth it
	memoBeside  = 160     // bytes of an entry beside its texts
)

// memoShard keeps what was asked last in two generations: the young one takes
// what is new and what is asked again, and becomes the old one when it is full.
type memoShard struct {
	mu         sync.Mutex
	young, old map[string]Result
	bytes      int // of young
}

var (
	memo                 [memoShards]memoShard
	memoSeed             = maphash.MakeSeed()
	memoHits, memoMisses atomic.Uint64
	memoKeys             = sync.Pool{New: func() any { return new([]byte) }}
)

// MemoStats counts the evaluations of Rego policies since the start that the
// memo answered, and those that it could have and did not.
func MemoStats() (hits, misses uint64) { return memoHits.Load(), memoMisses.Load() }

func shardOf(key []byte) *memoShard { return &memo[maphash.Bytes(memoSeed, key)%memoShards] }

func (s *memoShard) get(key []byte) (Result, bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if r, ok := s.young[string(key)]; ok {
		return r, true
	}
	r, ok := s.old[string(key)]
	if ok {
		s.add(string(key), r)
	}
	return r, ok
}

func (s *memoShard) put(key []byte, r Result) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if _, ok := s.young[string(key)]; !ok {
		s.add(string(key), r)
	}
}

// add adds to the young generation.
func (s *memoShard) add(key string, r Result) {
	size := memoBeside + len(key) + len(r.Action) + len(r.Reasons) + len(r.Obligations)
	if s.young == nil || len(s.young) >= memoEntries || s.bytes+size > memoBytes {
		s.old, s.young, s.bytes = s.young, make(map[string]Result), 0
	}
	s.young[key] = r
	s.bytes += size
}

// memoised answers from the memo, or from run.
func (p *regoProgram) memoised(s *Snapshot, in *Input) (Result, error) {
	if p.reads.unfit != "" {
		return p.run(s, in)
	}
	buf := memoKeys.Get().(*[]byte)
	defer memoKeys.Put(buf)
	key := p.appendKey((*buf)[:0], s, in)
	*buf = key[:0]
	if len(key) > memoKey {
		memoMisses.Add(1)
		return p.run(s, in)
	}
	shard := shardOf(key)
	if r, ok := shard.get(key); ok {
		memoHits.Add(1)
		return r, nil
	}
	memoMisses.Add(1)
	r, err := p.run(s, in)
	if err == nil {
		shard.put(key, r)
	}
	return r, err
}

func (p *regoProgram) appendKey(b []byte, s *Snapshot, in *Input) []byte {
	b = binary.BigEndian.AppendUint64(b, p.id)
	for _, name := range p.reads.sets {
		if set := s.Set(name); set != nil {
			b = binary.BigEndian.AppendUint64(append(b, present), uint64(set.Version))
		} else {
			b = append(b, absent)
		}
	}
	for _, path := range p.reads.paths {
		b = in.appendPart(b, path)
	}
	return b
}

// What stands in a key before a value. A value's canonical JSON has no such
// bytes, so that no two lists of values are written alike.
const (
	absent byte = iota
	present
)

// appendPart appends what policies see at a path of input.
func (in *Input) appendPart(b []byte, path []string) []byte {
	if len(path) == 0 {
		for _, part := range [...]string{"subject", "action", "resource", "context", "latchkey"} {
			b = in.appendPart(b, []string{part})
		}
		return b
	}
	rest := path[1:]
	switch path[0] {
	case "subject":
		return in.Subject.appendPart(b, rest)
	case "resource":
		return in.Resource.appendPart(b, rest)
	case "action":
		switch {
		case len(rest) == 0:
			return appendObject(appendText(b, in.Action.Name), in.Action.Properties, nil)
		case rest[0] == "name" && len(rest) == 1:
			return appendText(b, in.Action.Name)
		case rest[0] == "properties":
			return appendObject(b, in.Action.Properties, rest[1:])
		}
	case "context":
		return appendObject(b, in.Context, rest)
	case "latchkey":
		switch {
		case len(rest) == 0:
			return appendGrants(appendBool(b, in.ScopePermits), in.Grants)
		case rest[0] == "scope_permits" && len(rest) == 1:
			return appendBool(b, in.ScopePermits)
		case rest[0] == "grants":
			return appendGrants(b, in.Grants)
		}
	}
	return append(b, absent)
}

func (e *Entity) appendPart(b []byte, path []string) []byte {
	switch {
	case len(path) == 0:
		return e.appendPart(appendText(appendText(b, e.Type), e.ID), []string{"properties"})
	case path[0] == "type" && len(path) == 1:
		return appendText(b, e.Type)
	case path[0] == "id" && len(path) == 1:
		return appendText(b, e.ID)
	case path[0] == "properties" && len(path) > 1:
		return appendValueAt(b, e.Property(path[1]), path[2:])
	case path[0] == "properties":
		var names []string
		for name := range e.Properties {
			names = append(names, name)
		}
		slices.Sort(names)
		b = binary.AppendUvarint(append(b, present), uint64(len(names)))
		for _, name := range names {
			b = e.Property(name).AppendCanonical(append(appendText(b, name), present))
		}
		return b
	}
	return append(b, absent)
}

func appendText(b []byte, s string) []byte {
	return append(binary.AppendUvarint(append(b, present), uint64(len(s))), s...)
}

func appendBool(b []byte, v bool) []byte {
	if v {
		return append(b, present, 't')
	}
	return append(b, present, 'f')
}

// appendObject is appendValueAt of an object that is {} where there is none.
func appendObject(b []byte, v strictjson.Value, path []string) []byte {
	if v.Kind() == strictjson.Missing && len(path) == 0 {
		return append(b, present, '{', '}')
	}
	return appendValueAt(b, v, path)
}

func appendValueAt(b []byte, v strictjson.Value, path []string) []byte {
	for _, name := range path {
		v = v.Get(name)
	}
	if v.Kind() == strictjson.Missing {
		return append(b, absent)
	}
	return v.AppendCanonical(append(b, present))
}

func appendGrants(b []byte, grants []Grant) []byte {
	b = binary.AppendUvarint(append(b, present), uint64(len(grants)))
	for i := range grants {
		g := &grants[i]
		b = appendText(appendText(appendText(b, g.ID), g.Entitlement), g.Reason)
		for _, at := range [...]latchkey.Instant{g.NotBefore, g.ExpiresAt} {
			b = binary.BigEndian.AppendUint64(b, uint64(at))
		}
	}
	return b
}
