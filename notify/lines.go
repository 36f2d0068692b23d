package notify

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
)

// lines writes an event a line.
type lines struct {
	w io.Writer
	// torn is the rest of a line that was written in part: it goes first, so
	// that a full disk leaves no line that is two.
	torn []byte
}

// NewWriterSink makes a sink that writes an event a line to w.
func NewWriterSink(w io.Writer) Sink { return &lines{w: w} }

// Send implements Sink.
func (s *lines) Send(_ context.Context, events [][]byte) (delivered, rejected int, err error) {
	if len(s.torn) > 0 {
		n, err := s.w.Write(s.torn)
		if s.torn = s.torn[n:]; len(s.torn) > 0 || err != nil {
			return 0, 0, orShort(err)
		}
	}
	all := append(bytes.Join(events, []byte{'\n'}), '\n')
	n, err := s.w.Write(all)
	if n == len(all) {
		return len(events), 0, err
	}
	delivered = bytes.Count(all[:n], []byte{'\n'})
	if n > 0 && all[n-1] != '\n' { // this one is done with the rest of its line
		end := n + bytes.IndexByte(all[n:], '\n') + 1
		s.torn = append([]byte(nil), all[n:end]...)
		delivered++
	}
	return delivered, 0, orShort(err)
}

func orShort(err error) error {
	if err == nil {
		return io.ErrShortWrite
	}
	return fmt.Errorf("write decisions: %w", err)
}

// Close implements Sink.
func (s *lines) Close() error {
	if len(s.torn) > 0 {
		_, err := s.w.Write(s.torn)
		return err
	}
	return nil
}

// file is a sink that appends to a file, and opens it anew when it was moved
// away or removed, as logrotate does: no signal is needed.
type file struct {
	path string
	f    *os.File
	lines
}

// NewFileSink makes a sink that appends an event a line to the file, making it
// for its owner alone to read.
func NewFileSink(path string) (Sink, error) {
	s := &file{path: path}
	return s, s.open()
}

func (s *file) open() error {
	f, err := os.OpenFile(s.path, os.O_WRONLY|os.O_APPEND|os.O_CREATE, 0o600)
	if err != nil {
		return fmt.Errorf("open the decision log: %w", err)
	}
	s.f, s.w = f, f
	return nil
}

// Send implements Sink.
func (s *file) Send(ctx context.Context, events [][]byte) (delivered, rejected int, err error) {
	if err := s.follow(); err != nil {
		return 0, 0, err
	}
	return s.lines.Send(ctx, events)
}

// follow opens the file of the path if that is another one by now.
func (s *file) follow() error {
	held, err := s.f.Stat()
	if err != nil {
		return fmt.Errorf("look at the decision log: %w", err)
	}
	named, err := os.Stat(s.path)
	if err == nil && os.SameFile(held, named) {
		return nil
	}
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("look at the decision log: %w", err)
	}
	old := s.f
	if len(s.torn) > 0 { // the line ends where it began, or it ends nowhere
		if _, err := old.Write(s.torn); err != nil {
			return fmt.Errorf("write decisions: %w", err)
		}
		s.torn = nil
	}
	if err := s.open(); err != nil {
		return err
	}
	return old.Close()
}

// Close implements Sink.
func (s *file) Close() error { return errors.Join(s.lines.Close(), s.f.Sync(), s.f.Close()) }
