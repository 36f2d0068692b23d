package notify

import (
	"bufio"
	"bytes"
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"encoding/base64"
	"errors"
	"fmt"
	"io"
	"math/big"
	"mime"
	"mime/quotedprintable"
	"net"
	"net/mail"
	"net/textproto"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus/testutil"

	"github.com/latchkey-dev/latchkey"
	"github.com/latchkey-dev/latchkey/deliveries"
)

// smtpServer speaks as much of RFC 5321 as a submission takes.
type smtpServer struct {
	t        testing.TB
	addr     string
	tls      *tls.Config // to offer STARTTLS; nil for none
	implicit bool        // TLS from the beginning
	user     string      // and password, "user password"; "" asks for none
	refuse   string      // an answer to RCPT

	mu    sync.Mutex
	mails []smtpMail
	clear []string // what came before TLS
}

type smtpMail struct {
	from, to string
	secure   bool
	auth     string
	text     string
}

func startSMTP(t testing.TB, s *smtpServer) *smtpServer {
	t.Helper()
	s.t = t
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	s.addr = ln.Addr().String()
	var serving sync.WaitGroup
	serving.Go(func() {
		for {
			conn, err := ln.Accept()
			if err != nil {
				return
			}
			serving.Go(func() {
				defer conn.Close()
				if s.implicit {
					conn = tls.Server(conn, s.tls)
				}
				s.serve(conn)
			})
		}
	})
	t.Cleanup(func() {
		_ = ln.Close()
		serving.Wait()
	})
	return s
}

func (s *smtpServer) got() []smtpMail {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.mails
}

func (s *smtpServer) serve(conn net.Conn) {
	secure := s.implicit
	var m smtpMail
	r := textproto.NewReader(bufio.NewReader(conn))
	say := func(format string, args ...any) { fmt.Fprintf(conn, format+"\r\n", args...) }
	say("220 mail.test ESMTP")
	for {
		line, err := r.ReadLine()
		if err != nil {
			return
		}
		if !secure {
			s.mu.Lock()
			s.clear = append(s.clear, line)
			s.mu.Unlock()
		}
		verb, rest, _ := strings.Cut(line, " ")
		switch strings.ToUpper(verb) {
		case "EHLO":
			say("250-mail.test")
			if s.tls != nil && !secure {
				say("250-STARTTLS")
			}
			if s.user != "" {
				say("250-AUTH PLAIN")
			}
			say("250 8BITMIME")
		case "STARTTLS":
			say("220 go on")
			conn, secure = tls.Server(conn, s.tls), true
			r = textproto.NewReader(bufio.NewReader(conn))
		case "AUTH":
			given, err := base64.StdEncoding.DecodeString(strings.TrimPrefix(rest, "PLAIN "))
			if m.auth = strings.TrimPrefix(strings.ReplaceAll(string(given), "\x00", " "), " "); err != nil || m.auth != s.user {
				say("535 no")
				continue
			}
			say("235 welcome")
		case "MAIL":
			m.from, m.secure = rest, secure
			say("250 fine")
		case "RCPT":
			if m.to = rest; s.refuse != "" {
				say("%s", s.refuse)
				continue
			}
			say("250 fine")
		case "DATA":
			say("354 go on")
			text, err := io.ReadAll(r.DotReader())
			if err != nil {
				return
			}
			m.text = string(text)
			s.mu.Lock()
			s.mails = append(s.mails, m)
			s.mu.Unlock()
			say("250 queued")
		case "QUIT":
			say("221 bye")
			return
		default:
			say("500 what?")
		}
	}
}

// certificates of a server at 127.0.0.1, and what trusts it.
func certificates(t testing.TB) (server, client *tls.Config) {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{SerialNumber: big.NewInt(1), NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour), IPAddresses: []net.IP{net.IPv4(127, 0, 0, 1)}, IsCA: true, BasicConstraintsValid: true}
	der, err := x509.CreateCertificate(rand.Reader, template, template, &key.PublicKey, key)
	if err != nil {
		t.Fatal(err)
	}
	cert, err := x509.ParseCertificate(der)
	if err != nil {
		t.Fatal(err)
	}
	pool := x509.NewCertPool()
	pool.AddCert(cert)
	return &tls.Config{MinVersion: tls.VersionTLS12, Certificates: []tls.Certificate{{Certificate: [][]byte{der}, PrivateKey: key}}}, &tls.Config{MinVersion: tls.VersionTLS12, RootCAs: pool}
}

// people are all the same person.
type people struct {
	is  deliveries.Reader
	err error
}

// Reader implements deliveries.People.
func (p *people) Reader(context.Context, string, string, string, latchkey.Instant) (deliveries.Reader, error) {
	return p.is, p.err
}

func password(text string) func() (string, error) { return func() (string, error) { return text, nil } }

const theApprover = "44444444-4444-4444-8444-444444444444"

// submitted is an event that is told to one approver.
func (w *world) submitted(more string) string {
	w.Helper()
	return w.happened(deliveries.Submitted, `,"template_name":"Prödüction","requester_name":"Ann","requester_email":"ann@example.com","notified_approvers":[{"id":"`+theApprover+`","email":"old@example.com"}]`+more)
}

// mailed are the deliveries of e-mail.
func (w *world) mailed() []deliveries.Delivery {
	w.Helper()
	return w.deliveries(deliveries.EmailTarget("default"))
}

func TestMail_TellsAnApproverOverTLS(t *testing.T) {
	serverTLS, clientTLS := certificates(t)
	for name, scheme := range map[string]string{"STARTTLS": "smtp", "TLS": "smtps"} {
		t.Run(name, func(t *testing.T) {
			s := startSMTP(t, &smtpServer{tls: serverTLS, implicit: scheme == "smtps", user: "me secret-of-the-mail-server"})
			to := &people{is: deliveries.Reader{Email: "bob@example.com", Decides: true, Pending: true, Justification: "the database burns\n.\nQUIT"}}
			m, err := NewMail(MailConfig{URL: scheme + "://me@" + s.addr, Password: password("secret-of-the-mail-server"), From: "Latchkey <latchkey@example.com>", Link: "https://console.example.com/", People: to, TLS: clientTLS})
			if err != nil {
				t.Fatal(err)
			}
			w := newWorld(t, func(c *SenderConfig) { c.Mail = m })
			request := w.submitted("")
			w.send()
			d := w.mailed()
			if len(d) != 1 || d[0].Status != deliveries.Delivered || d[0].Recipient != theApprover || len(s.got()) != 1 {
				t.Fatalf("%+v\n%s", d, w.log)
			}
			got := s.got()[0]
			if got.from != "FROM:<latchkey@example.com> BODY=8BITMIME" || got.to != "TO:<bob@example.com>" || !got.secure || got.auth != s.user {
				t.Errorf("%+v", got)
			}
			letter, err := mail.ReadMessage(strings.NewReader(got.text))
			if err != nil {
				t.Fatal(err)
			}
			subject, err := new(mime.WordDecoder).DecodeHeader(letter.Header.Get("Subject"))
			if err != nil || subject != "Access request: Prödüction for Ann <ann@example.com>" {
				t.Errorf("%q, %v", subject, err)
			}
			text, err := io.ReadAll(quotedprintable.NewReader(letter.Body))
			if err != nil || !strings.Contains(string(text), "> the database burns\n> .\n> QUIT\n") || !strings.Contains(string(text), "https://console.example.com/"+request+"\n") {
				t.Errorf("%s, %v", text, err)
			}
			if letter.Header.Get("To") != "<bob@example.com>" || letter.Header.Get("Auto-Submitted") != "auto-generated" || letter.Header.Get("Message-Id") != "<"+d[0].ID+"@example.com>" || letter.Header.Get("Date") == "" {
				t.Errorf("%v", letter.Header)
			}
			if w.send() != 0 {
				t.Error("it was sent twice")
			}
			if strings.Contains(w.log.String(), "secret-of-the-mail-server") || strings.Contains(strings.Join(s.clear, " "), "secret") {
				t.Error("the password was shown")
			}
		})
	}
}

// Servers refuse lines of more than 998 bytes (RFC 5322), and names may be long.
func TestMail_FoldsALongSubject(t *testing.T) {
	m, err := NewMail(MailConfig{URL: "smtp://localhost", From: "latchkey@example.com"})
	if err != nil {
		t.Fatal(err)
	}
	for _, subject := range []string{strings.Repeat("生産 ", 300) + "終", strings.Repeat("production ", 80) + "end", "?= =? Prödüction"} {
		text := m.format(message{id: "1", to: "bob@example.com", letter: deliveries.Letter{Subject: subject, Text: "t"}})
		for line := range bytes.SplitSeq(text, []byte("\r\n")) {
			if len(line) > 998 {
				t.Errorf("a line of %d bytes: %.60s", len(line), line)
			}
		}
		letter, err := mail.ReadMessage(bytes.NewReader(text))
		if err != nil {
			t.Fatal(err)
		}
		got, err := new(mime.WordDecoder).DecodeHeader(letter.Header.Get("Subject"))
		if err != nil || got != subject {
			t.Errorf("%.60q, %v", got, err)
		}
	}
}

// The attack: somebody between takes STARTTLS out of the server's answer, to read
// along. Nothing is sent then, least of all the password.
func TestMail_SendsNothingInTheClear(t *testing.T) {
	s := startSMTP(t, &smtpServer{user: "me password"})
	m, err := NewMail(MailConfig{URL: "smtp://me@" + s.addr, Password: password("password"), From: "latchkey@example.com", People: &people{}})
	if err != nil {
		t.Fatal(err)
	}
	m.near = false // as if it were another machine
	msg := message{id: "1", to: "bob@example.com", letter: deliveries.Letter{Subject: "s", Text: "t"}}
	if err := m.send(t.Context(), msg); err == nil || !strings.Contains(err.Error(), "no TLS") {
		t.Errorf("%v", err)
	}
	m.cfg.Insecure = true // which sends e-mail, and never a password
	m.host = "mail.example.com"
	if err := m.send(t.Context(), msg); err == nil {
		t.Error("a password was sent in the clear")
	}
	for _, line := range s.clear {
		if strings.Contains(line, "AUTH") || strings.Contains(line, "MAIL") || strings.Contains(line, "bob") {
			t.Errorf("in the clear: %s", line)
		}
	}
	open := startSMTP(t, &smtpServer{})
	if m, err = NewMail(MailConfig{URL: "smtp://" + open.addr, From: "latchkey@example.com", People: &people{}}); err != nil {
		t.Fatal(err)
	}
	if err := m.send(t.Context(), msg); err != nil || len(open.got()) != 1 { // on this machine
		t.Errorf("%v", err)
	}
}

func TestMail_WhatIsRefusedForGoodIsNotTriedAgain(t *testing.T) {
	for _, c := range []struct {
		answer string
		email  string
		status deliveries.Status
		result string
	}{
		{"550 no such mailbox", "bob@example.com", deliveries.Dead, "mail_refused"},
		{"451 later", "bob@example.com", deliveries.Pending, "mail_refused"},
		{"", "bob@example.com\r\nRCPT TO:<evil@example.com>", deliveries.Dead, "mail_refused"},
		{"", "not an address", deliveries.Dead, "mail_refused"},
		{"", "", deliveries.Dead, "no_address"},
	} {
		s := startSMTP(t, &smtpServer{refuse: c.answer})
		to := &people{is: deliveries.Reader{Email: c.email, Decides: true, Pending: true}}
		m, err := NewMail(MailConfig{URL: "smtp://" + s.addr, From: "latchkey@example.com", People: to})
		if err != nil {
			t.Fatal(err)
		}
		w := newWorld(t, func(cfg *SenderConfig) { cfg.Mail = m })
		w.submitted("")
		w.send()
		if d := w.mailed(); len(d) != 1 || d[0].Status != c.status || d[0].Outcome.Result != c.result || len(s.got()) != 0 {
			t.Errorf("%q %q: %+v", c.answer, c.email, d)
		}
	}
}

// Between an event and its e-mail somebody decided, left, or lost the right to
// decide: the justification is not for them any more.
func TestMail_IsNotSentToWhoMayNoLongerRead(t *testing.T) {
	for name, to := range map[string]*people{
		"decided":        {is: deliveries.Reader{Email: "bob@example.com", Decides: true, Justification: "private"}},
		"may not decide": {is: deliveries.Reader{Email: "bob@example.com", Pending: true}},
		"gone":           {err: latchkey.Errorf(latchkey.NotFound, "x", "x")},
	} {
		s := startSMTP(t, &smtpServer{})
		m, err := NewMail(MailConfig{URL: "smtp://" + s.addr, From: "latchkey@example.com", People: to})
		if err != nil {
			t.Fatal(err)
		}
		w := newWorld(t, func(cfg *SenderConfig) { cfg.Mail = m })
		w.submitted("")
		w.send()
		if d := w.mailed(); len(d) != 1 || d[0].Status != deliveries.Dropped || len(s.got()) != 0 {
			t.Errorf("%s: %+v, %v", name, d, s.got())
		}
		// It is in order that nobody is told: nobody is woken for it.
		dead, dropped := testutil.ToFloat64(w.sender.ended.WithLabelValues("email", "dead")), testutil.ToFloat64(w.sender.ended.WithLabelValues("email", "dropped"))
		if dead != 0 || dropped != 1 || strings.Contains(w.log.String(), "WARN") {
			t.Errorf("%s: %v dead, %v dropped: %s", name, dead, dropped, w.log)
		}
	}
	s := startSMTP(t, &smtpServer{})
	m, err := NewMail(MailConfig{URL: "smtp://" + s.addr, From: "latchkey@example.com", People: &people{err: errors.New("the database is away")}})
	if err != nil {
		t.Fatal(err)
	}
	w := newWorld(t, func(cfg *SenderConfig) { cfg.Mail = m })
	w.submitted("")
	w.send()
	if d := w.mailed(); d[0].Status != deliveries.Pending {
		t.Errorf("trouble of our own: %+v", d)
	}
}

func TestNewMail_RefusesWhatCannotBeMeant(t *testing.T) {
	const from = "latchkey@example.com"
	for _, cfg := range []MailConfig{
		{URL: "", From: from}, {URL: "mail.example.com", From: from}, {URL: "http://mail.example.com", From: from}, {URL: "smtp://mail.example.com/x", From: from}, {URL: "smtp://mail.example.com?x=1", From: from},
		{URL: "smtp://me:password@mail.example.com", From: from, Password: password("p")}, {URL: "smtp://me@mail.example.com", From: from}, {URL: "smtp://mail.example.com", From: from, Password: password("p")},
		{URL: "smtp://mail.example.com", From: ""}, {URL: "smtp://mail.example.com", From: "nobody"}, {URL: "smtp://mail.example.com", From: "a@example.com\r\nBcc: b@example.com"},
	} {
		if _, err := NewMail(cfg); err == nil || strings.Contains(err.Error(), "password@") {
			t.Errorf("%q from %q: %v", cfg.URL, cfg.From, err)
		}
	}
	m, err := NewMail(MailConfig{URL: "smtp://mail.example.com", From: from})
	if err != nil || m.address != "mail.example.com:587" || m.near {
		t.Errorf("%+v, %v", m, err)
	}
}

// The attack: a line break in what people are called begins a header of its own. It
// never comes so far; if it did, it would be one line, or encoded.
func TestMail_ASubjectIsOneHeader(t *testing.T) {
	m, err := NewMail(MailConfig{URL: "smtp://mail.example.com", From: "latchkey@example.com", People: &people{}})
	if err != nil {
		t.Fatal(err)
	}
	for _, subject := range []string{"a\r\nBcc: everybody@example.com\r\n\r\nhello", "ä\nBcc: everybody@example.com", "a\rBcc: everybody@example.com", "=?utf-8?q?a=0D=0ABcc:_everybody@example.com?="} {
		text := m.format(message{id: "1", to: "bob@example.com", letter: deliveries.Letter{Subject: subject, Text: "text"}})
		letter, err := mail.ReadMessage(bytes.NewReader(text))
		if err != nil {
			t.Fatalf("%q: %v", subject, err)
		}
		body, err := io.ReadAll(letter.Body)
		if letter.Header.Get("Bcc") != "" || len(letter.Header) != 9 || string(body) != "text" || err != nil || bytes.Contains(text, []byte("\nBcc")) || bytes.Contains(text, []byte("\rBcc")) {
			t.Errorf("%q: %s", subject, text)
		}
	}
}
