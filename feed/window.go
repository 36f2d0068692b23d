package feed

// MaxWindow is how many touched records a Window remembers.
const MaxWindow = 1 << 16

// Window is what a node knows of a customer's changes since a certain one:
// which records they touched, and when last. It accepts a record only when all
// changes after the record's version are known, and none of them touched it; so
// a record that was read before a change, wherever it has been since, is never
// taken for one read after it. Its memory is bounded: the oldest changes are
// forgotten, and records from before them no longer accepted.
//
// The zero Window accepts nothing before Start. Not safe for concurrent use.
type Window struct {
	started bool
	from    int64 // every change after it is known
	to      int64 // the last change that is known
	touched map[Ref]int64
	kinds   map[Kind]int64 // the last change that touched all of a kind
	order   []touch        // of touched, oldest first, with some that were touched again since
}

type touch struct {
	ref Ref
	seq int64
}

// Start begins anew after the change seq: of the ones before nothing is known.
func (w *Window) Start(seq int64) {
	*w = Window{started: true, from: seq, to: seq}
}

// Started reports whether Start was called.
func (w *Window) Started() bool { return w.started }

// At is the sequence number of the last change that is known.
func (w *Window) At() int64 { return w.to }

// From is the sequence number of the change from which on all are known, itself
// not among them.
func (w *Window) From() int64 { return w.from }

// Next reports whether seq is the change after the last one. One that is known
// already is not, nor is one after a gap.
func (w *Window) Next(seq int64) bool { return w.started && seq == w.to+1 }

// Note takes in a change, which must be the next.
func (w *Window) Note(seq int64, refs []Ref, all []Kind) {
	if !w.Next(seq) {
		return
	}
	w.to = seq
	for _, kind := range all {
		if w.kinds == nil {
			w.kinds = map[Kind]int64{}
		}
		w.kinds[kind] = seq
	}
	if w.touched == nil && len(refs) > 0 {
		w.touched = map[Ref]int64{}
	}
	for _, ref := range refs {
		w.touched[ref] = seq
		w.order = append(w.order, touch{ref, seq})
	}
	for len(w.touched) > MaxWindow || len(w.order) > 2*MaxWindow {
		oldest := w.order[0]
		w.order = w.order[1:]
		if w.touched[oldest.ref] == oldest.seq {
			delete(w.touched, oldest.ref)
			w.from = max(w.from, oldest.seq)
		}
	}
}

// Accepts reports whether a record of ref that holds as of version is still up
// to date as far as the window knows. ref is the record's own, never one of kind
// Secret.
func (w *Window) Accepts(ref Ref, version int64) bool {
	return w.started && version >= w.from && version >= w.touched[ref] && version >= w.kinds[ref.Kind]
}
