package bundle

import (
	"encoding/json"
	"errors"
	"io/fs"
	"os"
	"path/filepath"
)

// Files of a puller's directory.
const (
	stateBundle = "bundle.tar.gz"
	stateNote   = "bundle.json"
)

// lastGood is the bundle that was last in force, on disk.
type lastGood struct{ dir string }

// note stands beside the bundle and is worth something only while its digest
// is the bundle's: the two files are written one after the other.
type note struct {
	Source   string `json:"source"`
	ETag     string `json:"etag"`
	LongPoll bool   `json:"long_poll"`
	Digest   string `json:"sha256"`
}

// load returns no bytes where nothing was kept.
func (l lastGood) load(limit int64) ([]byte, note, error) {
	if l.dir == "" {
		return nil, note{}, nil
	}
	path := filepath.Join(l.dir, stateBundle)
	if _, err := os.Stat(path); errors.Is(err, fs.ErrNotExist) {
		return nil, note{}, nil
	}
	raw, err := readFile(path, limit)
	if err != nil {
		return nil, note{}, err
	}
	var n note
	text, err := os.ReadFile(filepath.Join(l.dir, stateNote))
	if err != nil || json.Unmarshal(text, &n) != nil || n.Digest != digest(raw) {
		return raw, note{}, nil
	}
	return raw, n, nil
}

func (l lastGood) save(raw []byte, n note) error {
	if l.dir == "" {
		return nil
	}
	if err := os.MkdirAll(l.dir, 0o700); err != nil {
		return err
	}
	n.Digest = digest(raw)
	text, err := json.Marshal(n)
	if err != nil {
		return err
	}
	if err := replaceFile(filepath.Join(l.dir, stateBundle), raw); err != nil {
		return err
	}
	return replaceFile(filepath.Join(l.dir, stateNote), text)
}

// replaceFile puts a file there whole or not at all, for its owner alone.
func replaceFile(path string, text []byte) (err error) {
	dir := filepath.Dir(path)
	tmp, err := os.CreateTemp(dir, ".bundle-*") // mode 0600
	if err != nil {
		return err
	}
	defer func() {
		if err != nil {
			_ = os.Remove(tmp.Name()) // the first error is the one to tell
		}
	}()
	if _, err := tmp.Write(text); err != nil {
		return errors.Join(err, tmp.Close())
	}
	if err := errors.Join(tmp.Sync(), tmp.Close()); err != nil {
		return err
	}
	if err := os.Rename(tmp.Name(), path); err != nil {
		return err
	}
	d, err := os.Open(dir)
	if err != nil {
		return err
	}
	return errors.Join(d.Sync(), d.Close())
}
