package sandbox

import (
	"encoding/binary"
	"errors"
	"fmt"
	"io"
)

// A frame is one message between parent and child: its length, its kind, and
// fields, each with its length, all numbers in four bytes, the highest first.
type frame struct {
	kind   byte
	fields []string
}

// What the child tells and asks.
const (
	kindReady     byte = 'y' // confined: the script may come
	kindRefused   byte = 'x' // why it cannot be confined
	kindOutput    byte = 'o' // text
	kindSecret    byte = 's' // name → value
	kindFetch     byte = 'h' // method, URL, content type, body → status, body, then names and values of headers
	kindApprovers byte = 'a' // request id → id, email, name of each
	kindDone      byte = 'd' // result, error
)

// What the parent tells and answers.
const (
	kindRun     byte = 'r' // script, then keys and values of its configuration
	kindCompile byte = 'c' // script, of which nothing is run
	kindAnswer  byte = 'k'
	kindError   byte = 'e' // text
)

// Bounds of a frame.
const (
	maxFrame  = 1<<20 + 1<<16
	maxFields = 512
)

var errFrame = errors.New("malformed frame")

func writeFrame(w io.Writer, f frame) error {
	size := 1
	for _, s := range f.fields {
		size += 4 + len(s)
	}
	if size > maxFrame || len(f.fields) > maxFields {
		return fmt.Errorf("a message of %d bytes and %d fields is too large", size, len(f.fields))
	}
	b := make([]byte, 0, 4+size)
	b = binary.BigEndian.AppendUint32(b, uint32(size))
	b = append(b, f.kind)
	for _, s := range f.fields {
		b = binary.BigEndian.AppendUint32(b, uint32(len(s)))
		b = append(b, s...)
	}
	_, err := w.Write(b)
	return err
}

// readFrame reads one frame. It takes no memory for what has not come: a length
// is only a promise.
func readFrame(r io.Reader) (frame, error) {
	var head [4]byte
	if _, err := io.ReadFull(r, head[:]); err != nil {
		return frame{}, err
	}
	size := binary.BigEndian.Uint32(head[:])
	if size < 1 || size > maxFrame {
		return frame{}, errFrame
	}
	b, err := io.ReadAll(io.LimitReader(r, int64(size)))
	if err != nil {
		return frame{}, err
	}
	if len(b) < int(size) {
		return frame{}, io.ErrUnexpectedEOF
	}
	f := frame{kind: b[0]}
	for b = b[1:]; len(b) > 0; {
		if len(b) < 4 || len(f.fields) == maxFields {
			return frame{}, errFrame
		}
		n := uint64(binary.BigEndian.Uint32(b))
		if b = b[4:]; n > uint64(len(b)) {
			return frame{}, errFrame
		}
		f.fields, b = append(f.fields, string(b[:n])), b[n:]
	}
	return f, nil
}
