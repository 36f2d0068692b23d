package main

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"time"

	"go.yaml.in/yaml/v3"

	"github.com/latchkey-dev/latchkey"
	"github.com/latchkey-dev/latchkey/policies/bundle"
)

// maxBundleSources bounds the list, and the file.
const (
	maxBundleSources = 1000
	maxBundlesFile   = 1 << 20
)

// bundleSource is one entry of the file that --bundles names. Paths are
// relative to that file.
type bundleSource struct {
	Customer         string            `yaml:"customer"`
	Name             string            `yaml:"name"`
	URL              string            `yaml:"url"`
	File             string            `yaml:"file"`
	VerificationKeys []bundleSourceKey `yaml:"verification_keys"`
	KeyID            string            `yaml:"key_id"`
	Scope            string            `yaml:"scope"`
	SkipVerification bool              `yaml:"skip_verification"`
	TokenFile        string            `yaml:"token_file"`
	AllowInsecure    bool              `yaml:"allow_insecure"`
	CAFile           string            `yaml:"ca_file"`
	MaxSize          int64             `yaml:"max_size"`
	Poll             bounds            `yaml:"poll"`
	Retry            bounds            `yaml:"retry"`
	LongPoll         *time.Duration    `yaml:"long_poll"`
	DefaultPolicy    string            `yaml:"default_policy"`
}

// bounds of a time between two attempts; 0 is the default.
type bounds struct {
	Min time.Duration `yaml:"min"`
	Max time.Duration `yaml:"max"`
}

// or gives the bounds that are not set; one that is moves the other where it
// must.
func (b bounds) or(least, most time.Duration) (time.Duration, time.Duration) {
	switch {
	case b.Min == 0 && b.Max == 0:
		return least, most
	case b.Max == 0:
		return b.Min, max(b.Min, most)
	case b.Min == 0:
		return min(least, b.Max), b.Max
	}
	return b.Min, b.Max
}

type bundleSourceKey struct {
	ID        string `yaml:"id"`
	Algorithm string `yaml:"algorithm"`
	File      string `yaml:"file"`
	Key       string `yaml:"key"`
}

// bundleSources reads the file; none without one.
func (cmd *ServeCmd) bundleSources() ([]bundleSource, error) {
	if cmd.Bundles == "" {
		return nil, nil
	}
	text, err := os.ReadFile(cmd.Bundles)
	if err != nil {
		return nil, fmt.Errorf("read the bundles: %w", err)
	}
	sources, err := parseBundleSources(text)
	if err != nil {
		return nil, usage("--bundles %s: %w", cmd.Bundles, err)
	}
	for i := range sources {
		sources[i].under(filepath.Dir(cmd.Bundles))
	}
	return sources, nil
}

// parseBundleSources reads the list strictly.
func parseBundleSources(text []byte) ([]bundleSource, error) {
	if len(text) > maxBundlesFile {
		return nil, fmt.Errorf("the file is over %d bytes", maxBundlesFile)
	}
	d := yaml.NewDecoder(bytes.NewReader(text))
	d.KnownFields(true)
	var sources []bundleSource
	if err := d.Decode(&sources); err != nil {
		if errors.Is(err, io.EOF) {
			return nil, errors.New("the file is empty")
		}
		return nil, err
	}
	var more any
	if err := d.Decode(&more); !errors.Is(err, io.EOF) {
		return nil, errors.New("the file holds a second document")
	}
	if len(sources) > maxBundleSources {
		return nil, fmt.Errorf("%d bundles are the most", maxBundleSources)
	}
	customers, names := map[string]bool{}, map[string]bool{}
	for i := range sources {
		s := &sources[i]
		if s.Name == "" {
			s.Name = s.Customer
		}
		if err := s.check(); err != nil {
			return nil, fmt.Errorf("bundle %d: %w", i+1, err)
		}
		if customers[s.Customer] || names[s.Name] {
			return nil, fmt.Errorf("bundle %d: another has the customer or the name", i+1)
		}
		customers[s.Customer], names[s.Name] = true, true
	}
	return sources, nil
}

func (s *bundleSource) check() error {
	switch {
	case !latchkey.ValidName(s.Customer):
		return errors.New("customer: want the id of the customer whose policies it holds")
	case !latchkey.ValidName(s.Name):
		return errors.New("name: want 1 to 128 of [A-Za-z0-9._:-], the first alphanumeric")
	case (s.URL == "") == (s.File == ""):
		return errors.New("want either url or file")
	case s.URL != "" && !strings.HasPrefix(s.URL, "http://") && !strings.HasPrefix(s.URL, "https://"):
		return errors.New("url: want http or https")
	case s.MaxSize < 0 || s.Poll.Min < 0 || s.Poll.Max < 0 || s.Retry.Min < 0 || s.Retry.Max < 0:
		return errors.New("max_size, poll and retry: want numbers above zero")
	case s.DefaultPolicy != "" && !latchkey.ValidName(s.DefaultPolicy):
		return errors.New("default_policy: want a policy's name")
	case s.SkipVerification && len(s.VerificationKeys) > 0:
		return errors.New("skip_verification and verification_keys exclude each other")
	case s.File != "" && (s.TokenFile != "" || s.CAFile != ""):
		return errors.New("token_file and ca_file go with url")
	}
	for i, k := range s.VerificationKeys {
		if (k.Key == "") == (k.File == "") {
			return fmt.Errorf("verification_keys %d: want either file or key", i+1)
		}
	}
	return nil
}

// under makes the paths relative to a directory.
func (s *bundleSource) under(dir string) {
	paths := []*string{&s.File, &s.TokenFile, &s.CAFile}
	for i := range s.VerificationKeys {
		paths = append(paths, &s.VerificationKeys[i].File)
	}
	for _, p := range paths {
		if *p != "" && !filepath.IsAbs(*p) {
			*p = filepath.Join(dir, *p)
		}
	}
}

// keys reads the verification keys; nil without any.
func (s *bundleSource) keys() (*bundle.Keys, error) {
	if len(s.VerificationKeys) == 0 {
		if s.KeyID != "" || s.Scope != "" {
			return nil, errors.New("key_id and scope go with verification_keys")
		}
		return nil, nil
	}
	var keys []bundle.VerificationKey
	for i, k := range s.VerificationKeys {
		text := k.Key
		if k.File != "" {
			read, err := os.ReadFile(k.File)
			if err != nil {
				return nil, fmt.Errorf("verification_keys %d: %w", i+1, err)
			}
			text = string(read)
		}
		key := bundle.VerificationKey{ID: k.ID, Algorithm: k.Algorithm, Key: text}
		switch {
		case key.Algorithm == "":
			var err error
			if key.Algorithm, err = bundle.AlgorithmOf(text); err != nil {
				return nil, fmt.Errorf("verification_keys %d: %w", i+1, err)
			}
		case strings.HasPrefix(key.Algorithm, "HS"):
			key.Key = strings.TrimSpace(text)
		}
		keys = append(keys, key)
	}
	return bundle.NewKeys(s.KeyID, s.Scope, keys...)
}

// config is what a puller is made of, but for what the node gives it.
func (s *bundleSource) config(data string) (bundle.Config, error) {
	cfg := bundle.Config{
		Name: s.Name, Customer: s.Customer, Source: s.URL, Limits: bundle.Limits{Size: s.MaxSize}, SkipVerification: s.SkipVerification,
		AllowInsecure: s.AllowInsecure,
		Dir:           filepath.Join(data, "bundles", s.Name),
	}
	if s.File != "" {
		cfg.Source = s.File
	}
	cfg.MinDelay, cfg.MaxDelay = s.Poll.or(time.Minute, 2*time.Minute)
	cfg.MinRetry, cfg.MaxRetry = s.Retry.or(time.Second, 2*time.Minute)
	if s.LongPoll != nil {
		if cfg.LongPoll = *s.LongPoll; cfg.LongPoll <= 0 {
			cfg.LongPoll = -1
		}
	}
	var err error
	if cfg.Keys, err = s.keys(); err != nil {
		return cfg, err
	}
	if s.TokenFile != "" {
		cfg.Token = bundle.TokenFile(s.TokenFile)
	}
	if s.CAFile != "" {
		if cfg.RootCAs, err = bundle.LoadRootCAs(s.CAFile); err != nil {
			return cfg, fmt.Errorf("ca_file: %w", err)
		}
	}
	return cfg, nil
}
