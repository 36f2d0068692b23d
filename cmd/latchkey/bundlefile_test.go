package main

import (
	"path/filepath"
	"strings"
	"testing"
	"time"
)

func TestBundleSources_AreReadStrictly(t *testing.T) {
	t.Parallel()
	sources, err := parseBundleSources([]byte("- {customer: acme, url: https://b.example/x, poll: {max: 10s}, long_poll: 0s, token_file: token}\n- {customer: default, name: d, file: /b.tar.gz}\n"))
	if err != nil {
		t.Fatal(err)
	}
	sources[0].under("/etc/latchkey")
	cfg, err := sources[0].config("/data")
	if err != nil {
		t.Fatal(err)
	}
	if sources[0].TokenFile != "/etc/latchkey/token" || cfg.Name != "acme" || cfg.Dir != filepath.Join("/data", "bundles", "acme") ||
		cfg.MinDelay != 10*time.Second || cfg.MaxDelay != 10*time.Second || cfg.LongPoll >= 0 || cfg.MaxRetry != 2*time.Minute || cfg.Token == nil {
		t.Errorf("%+v\n%+v", sources[0], cfg)
	}
	for text, want := range map[string]string{
		"":               "empty",
		"customer: acme": "cannot unmarshal",
		"- {customer: acme, file: b, verify: true}":                                           "field verify not found",
		"- {customer: acme, file: b, customer: x}":                                            "already defined",
		"- {customer: ../x, file: b}":                                                         "customer",
		"- {file: b}":                                                                         "customer",
		"- {customer: acme, name: ../../x, file: b}":                                          "name", // it is a directory's
		"- {customer: acme}":                                                                  "either url or file",
		"- {customer: acme, file: b, url: https://x/y}":                                       "either url or file",
		"- {customer: acme, url: ftp://x/y}":                                                  "http",
		"- {customer: acme, file: b, max_size: -1}":                                           "max_size",
		"- {customer: acme, file: b, token_file: t}":                                          "go with url",
		"- {customer: acme, file: b, default_policy: a b}":                                    "default_policy",
		"- {customer: acme, file: b, verification_keys: [{}]}":                                "either file or key",
		"- {customer: acme, file: b, verification_keys: [{key: k}], skip_verification: true}": "exclude each other",
		"- {customer: acme, file: b}\n- {customer: acme, name: other, file: b}":               "another",
		"- {customer: acme, file: b}\n- {customer: default, name: acme, file: b}":             "another", // one directory for two
		"- {customer: acme, file: b}\n---\n- {customer: default, file: b}":                    "second document",
	} {
		if _, err := parseBundleSources([]byte(text)); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%q: %v", text, err)
		}
	}
	for text, want := range map[string]string{
		"- {customer: acme, file: b, scope: s}":                                 "go with verification_keys",
		"- {customer: acme, file: b, verification_keys: [{key: no PEM}]}":       "verification_keys 1",
		"- {customer: acme, file: b, verification_keys: [{file: /nosuch.pem}]}": "verification_keys 1",
		"- {customer: acme, url: https://x/y, ca_file: /nosuch.pem}":            "ca_file",
	} {
		sources, err := parseBundleSources([]byte(text))
		if err != nil {
			t.Errorf("%q: %v", text, err)
			continue
		}
		if _, err := sources[0].config(t.TempDir()); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%q: %v", text, err)
		}
	}
}
