package main

import (
	"bytes"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"math/big"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"
)

// authority signs certificates for a test.
type authority struct {
	cert *x509.Certificate
	key  *ecdsa.PrivateKey
}

func newAuthority(t *testing.T) *authority {
	t.Helper()
	a := &authority{}
	a.cert, a.key = a.issue(t, 1, true)
	return a
}

func (a *authority) issue(t *testing.T, serial int64, isCA bool) (*x509.Certificate, *ecdsa.PrivateKey) {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{
		SerialNumber: big.NewInt(serial), Subject: pkix.Name{CommonName: "latchkey test"},
		NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour),
		IPAddresses: []net.IP{net.IPv4(127, 0, 0, 1)}, IsCA: isCA, BasicConstraintsValid: true,
		KeyUsage:    x509.KeyUsageDigitalSignature | x509.KeyUsageCertSign,
		ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth, x509.ExtKeyUsageClientAuth},
	}
	parent, signer := a.cert, a.key
	if isCA {
		parent, signer = template, key
	}
	der, err := x509.CreateCertificate(rand.Reader, template, parent, &key.PublicKey, signer)
	if err != nil {
		t.Fatal(err)
	}
	cert, err := x509.ParseCertificate(der)
	if err != nil {
		t.Fatal(err)
	}
	return cert, key
}

func writePEM(t *testing.T, path, kind string, der []byte) {
	t.Helper()
	if err := os.WriteFile(path, pem.EncodeToMemory(&pem.Block{Type: kind, Bytes: der}), 0o600); err != nil {
		t.Fatal(err)
	}
}

func (a *authority) write(t *testing.T, dir string, serial int64) {
	t.Helper()
	cert, key := a.issue(t, serial, false)
	der, err := x509.MarshalECPrivateKey(key)
	if err != nil {
		t.Fatal(err)
	}
	writePEM(t, filepath.Join(dir, "key.pem"), "EC PRIVATE KEY", der)
	writePEM(t, filepath.Join(dir, "cert.pem"), "CERTIFICATE", cert.Raw)
}

func TestServe_TLSFollowsTheCertificateFileAndAsksForClients(t *testing.T) {
	dir := t.TempDir()
	ca, stranger := newAuthority(t), newAuthority(t)
	ca.write(t, dir, 100)
	writePEM(t, filepath.Join(dir, "ca.pem"), "CERTIFICATE", ca.cert.Raw)

	inner, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	cmd := &Front{TLSCert: filepath.Join(dir, "cert.pem"), TLSKey: filepath.Join(dir, "key.pem"), TLSClientCA: filepath.Join(dir, "ca.pem")}
	secure, err := cmd.tls()
	if err != nil {
		t.Fatal(err)
	}
	ln := tls.NewListener(inner, secure)
	srv := &http.Server{Handler: http.HandlerFunc(func(http.ResponseWriter, *http.Request) {})}
	go srv.Serve(ln) // it ends with Close
	defer srv.Close()

	get := func(client *authority) (*tls.ConnectionState, error) {
		roots := x509.NewCertPool()
		roots.AddCert(ca.cert)
		cfg := &tls.Config{RootCAs: roots}
		if client != nil {
			cert, key := client.issue(t, 7, false)
			cfg.GetClientCertificate = func(*tls.CertificateRequestInfo) (*tls.Certificate, error) {
				return &tls.Certificate{Certificate: [][]byte{cert.Raw}, PrivateKey: key}, nil
			}
		}
		transport := &http.Transport{TLSClientConfig: cfg}
		defer transport.CloseIdleConnections()
		resp, err := (&http.Client{Transport: transport}).Get("https://" + inner.Addr().String())
		if err != nil {
			return nil, err
		}
		defer resp.Body.Close()
		return resp.TLS, nil
	}
	serial := func() int64 {
		state, err := get(ca)
		if err != nil {
			t.Fatal(err)
		}
		return state.PeerCertificates[0].SerialNumber.Int64()
	}
	if got := serial(); got != 100 {
		t.Errorf("serial %d, want 100", got)
	}
	if _, err := get(nil); err == nil {
		t.Error("a client without a certificate was let in")
	}
	if _, err := get(stranger); err == nil {
		t.Error("a client of another authority was let in")
	}

	ca.write(t, dir, 200)
	later := time.Now().Add(time.Minute) // file times are coarse
	if err := os.Chtimes(cmd.TLSCert, later, later); err != nil {
		t.Fatal(err)
	}
	if got := serial(); got != 200 {
		t.Errorf("serial %d after the renewal, want 200", got)
	}

	// A renewal that cannot be read leaves the old one in force.
	if err := os.WriteFile(cmd.TLSCert, []byte("half a file"), 0o600); err != nil {
		t.Fatal(err)
	}
	if got := serial(); got != 200 {
		t.Errorf("serial %d after a broken renewal, want 200", got)
	}
}

func TestServe_OnAUnixSocket(t *testing.T) {
	dir := t.TempDir()
	socket := filepath.Join(dir, "api.sock")
	if err := os.WriteFile(filepath.Join(dir, "x"), nil, 0o600); err != nil {
		t.Fatal(err)
	}
	p, err := startServer(filepath.Join(dir, "data"), nil, []string{"--private-listen", "unix:" + socket}, nil)
	if err != nil {
		t.Fatal(err)
	}
	ask := func() error {
		transport := &http.Transport{Dial: func(string, string) (net.Conn, error) { return net.Dial("unix", socket) }}
		defer transport.CloseIdleConnections()
		resp, err := (&http.Client{Transport: transport}).Get("http://localhost/metrics")
		if err == nil {
			resp.Body.Close()
		}
		return err
	}
	if err := ask(); err != nil {
		t.Error(err)
	}
	// The health check of an image without a shell asks there too.
	var said, failed bytes.Buffer
	if code := run(t.Context(), []string{"healthcheck", "--url", "unix:" + socket}, streams{nil, &said, &failed}); code != exitOK || said.String() != "ready\n" {
		t.Errorf("health check: %d %s%s", code, &said, &failed)
	}
	if code := run(t.Context(), []string{"healthcheck", "--url", "unix:" + socket + ".none"}, streams{nil, &said, &failed}); code != exitFailed {
		t.Errorf("health check of no socket: %d, want %d", code, exitFailed)
	}
	if code := run(t.Context(), []string{"healthcheck", "--url", "socket"}, streams{nil, &said, &failed}); code != exitUsage {
		t.Errorf("health check of no address: %d, want %d", code, exitUsage)
	}
	info, err := os.Stat(socket)
	if err != nil || info.Mode().Perm() != 0o660 {
		t.Errorf("mode %v, %v; want 0660", info.Mode(), err)
	}
	// A second server does not take a live socket; after a crash the next does.
	if _, err := listen("unix:" + socket); err == nil || !strings.Contains(err.Error(), "another process") {
		t.Errorf("a live socket was taken: %v", err)
	}
	_ = p.end(syscall.SIGKILL)
	ln, err := listen("unix:" + socket)
	if err != nil {
		t.Fatalf("the socket of a crashed server is in the way: %v", err)
	}
	ln.Close()
}
