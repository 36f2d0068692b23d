package main

import (
	"crypto/tls"
	"crypto/x509"
	"fmt"
	"os"
	"sync"
	"time"
)

// tls is the configuration for it, nil for plain HTTP. The certificate is read
// again when its file changes, so that a renewal needs no restart.
func (f *Front) tls() (*tls.Config, error) {
	if f.TLSCert == "" {
		return nil, nil
	}
	pair := &keyPair{cert: f.TLSCert, key: f.TLSKey}
	if _, err := pair.get(nil); err != nil {
		return nil, err
	}
	cfg := &tls.Config{MinVersion: tls.VersionTLS12, GetCertificate: pair.get}
	if f.TLSClientCA != "" {
		pem, err := os.ReadFile(f.TLSClientCA)
		if err != nil {
			return nil, fmt.Errorf("read the client authorities: %w", err)
		}
		cfg.ClientCAs = x509.NewCertPool()
		if !cfg.ClientCAs.AppendCertsFromPEM(pem) {
			return nil, usage("--tls-client-ca: %s holds no certificate", f.TLSClientCA)
		}
		cfg.ClientAuth = tls.RequireAndVerifyClientCert
	}
	return cfg, nil
}

// keyPair is a certificate that follows its file.
type keyPair struct {
	cert, key string

	mu     sync.Mutex
	loaded *tls.Certificate
	at     time.Time
}

// get implements tls.Config.GetCertificate. A renewal that cannot be read
// leaves the certificate in force that was.
func (p *keyPair) get(*tls.ClientHelloInfo) (*tls.Certificate, error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	info, err := os.Stat(p.cert)
	if err == nil && p.loaded != nil && info.ModTime().Equal(p.at) {
		return p.loaded, nil
	}
	pair, loadErr := tls.LoadX509KeyPair(p.cert, p.key)
	switch {
	case err == nil && loadErr == nil:
		p.loaded, p.at = &pair, info.ModTime()
	case p.loaded == nil:
		return nil, fmt.Errorf("read the certificate: %w", loadErr)
	}
	return p.loaded, nil
}
