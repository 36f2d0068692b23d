package bundle

import (
	"archive/tar"
	"bufio"
	"bytes"
	"compress/gzip"
	"errors"
	"io"
	"path"
	"slices"
	"strings"
	"time"
	"unicode"
	"unicode/utf8"
)

// DefaultMaxSize bounds a bundle's compressed bytes.
const DefaultMaxSize = 64 << 20

// Limits bound what is read. Zero fields have defaults.
type Limits struct {
	// Size bounds the compressed bytes; 64 MiB by default.
	Size int64
	// Unpacked bounds all files together; 4 × Size by default.
	Unpacked int64
	// File bounds one file; half of Unpacked by default.
	File int64
	// Files bounds their number; 10,000 by default.
	Files int
}

func (l Limits) withDefaults() Limits {
	if l.Size <= 0 {
		l.Size = DefaultMaxSize
	}
	if l.Unpacked <= 0 {
		l.Unpacked = 4 * l.Size
	}
	if l.File <= 0 {
		l.File = l.Unpacked / 2
	}
	if l.Files <= 0 {
		l.Files = 10_000
	}
	return l
}

// maxPath bounds a file's name in an archive.
const maxPath = 1 << 10

// file is one file of an archive. Its name is relative and clean.
type file struct {
	name string
	data []byte
}

// unpack reads a whole gzip tar. Whatever two readers could take for different
// bundles is refused: names that are not clean, duplicates, links, bytes after
// the end.
func unpack(raw []byte, limits Limits) ([]file, error) {
	limits = limits.withDefaults()
	if int64(len(raw)) > limits.Size {
		return nil, refuse(CodeTooBig, "the bundle is larger than %d bytes", limits.Size)
	}
	compressed := bufio.NewReader(bytes.NewReader(raw))
	z, err := gzip.NewReader(compressed)
	if err != nil {
		return nil, refuse(CodeNotABundle, "not gzip").Because(err)
	}
	z.Multistream(false)
	// The bound covers what the tar reader skips as well: headers, padding.
	bounded := &boundedReader{r: z, left: limits.Unpacked + int64(limits.Files+16)*4*1024}
	files, err := untar(bounded, limits)
	if err == nil {
		err = drain(bounded)
	}
	switch {
	case bounded.left < 0: // whatever the tar reader made of it
		return nil, tooBigUnpacked(limits.Unpacked)
	case err != nil:
		return nil, err
	}
	if _, err := compressed.ReadByte(); !errors.Is(err, io.EOF) {
		return nil, refuse(CodeNotABundle, "bytes follow the archive")
	}
	return files, nil
}

func tooBigUnpacked(limit int64) error {
	return refuse(CodeTooBig, "the files are together larger than %d bytes", limit)
}

func untar(r io.Reader, limits Limits) ([]file, error) {
	var files []file
	seen := map[string]bool{}
	left := limits.Unpacked
	entries := 0
	for t := tar.NewReader(r); ; {
		h, err := t.Next()
		if errors.Is(err, io.EOF) {
			return files, nil
		}
		if err != nil {
			return nil, refuse(CodeNotABundle, "the archive is damaged").Because(err)
		}
		if entries++; entries > limits.Files {
			return nil, refuse(CodeTooBig, "more than %d files", limits.Files)
		}
		switch h.Typeflag {
		case tar.TypeReg:
		case tar.TypeDir, tar.TypeXGlobalHeader:
			continue
		default:
			return nil, refuse(CodeNotABundle, "%q is no plain file", shown(h.Name))
		}
		name, ok := cleanName(h.Name)
		if !ok {
			return nil, refuse(CodeNotABundle, "%q is no name for a file of a bundle", shown(h.Name))
		}
		if seen[name] {
			return nil, refuse(CodeNotABundle, "%q is there twice", shown(name))
		}
		seen[name] = true
		if h.Size > limits.File {
			return nil, refuse(CodeTooBig, "%q is larger than %d bytes", shown(name), limits.File)
		}
		if left -= h.Size; left < 0 {
			return nil, tooBigUnpacked(limits.Unpacked)
		}
		// The buffer grows with what really comes, not with what the header
		// promises.
		var data bytes.Buffer
		n, err := io.Copy(&data, t) //nolint:gosec // bounded: by h.Size, and by what r lets through
		if err != nil || n != h.Size {
			return nil, refuse(CodeNotABundle, "%q is cut short", shown(name)).Because(err)
		}
		files = append(files, file{name, data.Bytes()})
	}
}

// drain reads what follows the last entry, which can only be padding, and with
// it the checksum of the compression.
func drain(r io.Reader) error {
	buf := make([]byte, 8<<10)
	for {
		n, err := r.Read(buf)
		if slices.ContainsFunc(buf[:n], func(b byte) bool { return b != 0 }) {
			return refuse(CodeNotABundle, "bytes follow the last file")
		}
		switch {
		case errors.Is(err, io.EOF):
			return nil
		case err != nil:
			return refuse(CodeNotABundle, "the compression is damaged").Because(err)
		}
	}
}

// boundedReader fails once more than left bytes were read, and left stays
// negative.
type boundedReader struct {
	r    io.Reader
	left int64
}

var errBound = errors.New("over the limit")

func (b *boundedReader) Read(p []byte) (int, error) {
	if b.left < 0 {
		return 0, errBound
	}
	n, err := b.r.Read(p)
	if b.left -= int64(n); b.left < 0 {
		return 0, errBound
	}
	return n, err
}

// cleanName makes a file's name relative: "opa build" begins names with a
// slash, tar with "./". Everything else that a path can do is refused.
func cleanName(name string) (string, bool) {
	if rest, ok := strings.CutPrefix(name, "./"); ok {
		name = rest
	} else {
		name = strings.TrimPrefix(name, "/")
	}
	switch {
	case name == "" || len(name) > maxPath || !utf8.ValidString(name),
		name == ".." || strings.HasPrefix(name, "../") || strings.HasPrefix(name, "/"),
		path.Clean(name) != name,
		strings.ContainsFunc(name, func(r rune) bool { return r == '\\' || unicode.IsControl(r) }):
		return "", false
	}
	return name, true
}

// shown cuts a name for a message.
func shown(name string) string {
	if len(name) > 200 {
		return name[:200] + "…"
	}
	return name
}

// pack writes files as a gzip tar, in their order. Equal files give equal
// bytes.
func pack(files []file) ([]byte, error) {
	var out bytes.Buffer
	z := gzip.NewWriter(&out)
	t := tar.NewWriter(z)
	for _, f := range files {
		h := &tar.Header{Typeflag: tar.TypeReg, Name: "/" + f.name, Mode: 0o600, Size: int64(len(f.data)), ModTime: time.Unix(0, 0), Format: tar.FormatPAX}
		if err := t.WriteHeader(h); err != nil {
			return nil, err
		}
		if _, err := t.Write(f.data); err != nil {
			return nil, err
		}
	}
	if err := errors.Join(t.Close(), z.Close()); err != nil {
		return nil, err
	}
	return out.Bytes(), nil
}
