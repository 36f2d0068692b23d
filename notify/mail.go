package notify

import (
	"bytes"
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"mime"
	"mime/quotedprintable"
	"net"
	"net/mail"
	"net/netip"
	"net/smtp"
	"net/textproto"
	"net/url"
	"strings"
	"time"

	"github.com/latchkey-dev/latchkey"
	"github.com/latchkey-dev/latchkey/deliveries"
)

// MailConfig are the settings of Mail.
type MailConfig struct {
	// URL is smtp://[USER@]HOST[:PORT], upgraded by STARTTLS, or smtps://, which
	// begins with TLS. Ports are 587 and 465 where none is given.
	URL string
	// Password is the user's, asked for each e-mail so that it may be renewed; nil
	// where the URL has no user.
	Password func() (string, error)
	// From is the sender, as in 'Latchkey <latchkey@example.com>'.
	From string
	// Insecure sends to another machine without TLS, where the server has none.
	Insecure bool
	// Link is what the id of a request is put after, so that it leads there; "" for
	// e-mail without links.
	Link   string
	People deliveries.People
	// TLS is for tests with a certificate of their own; nil is the system's.
	TLS *tls.Config
}

// Mail sends e-mail by SMTP (RFC 5321), each over a connection of its own. Safe for
// concurrent use.
type Mail struct {
	cfg            MailConfig
	host, address  string
	user           string
	implicit, near bool
	from           mail.Address
}

// NewMail makes one; it connects only when there is something to send.
func NewMail(cfg MailConfig) (*Mail, error) {
	u, err := url.Parse(cfg.URL)
	if err != nil || u.Hostname() == "" || u.Scheme != "smtp" && u.Scheme != "smtps" || u.Path != "" && u.Path != "/" || u.RawQuery != "" || u.Fragment != "" {
		return nil, errors.New("want smtp://[USER@]HOST[:PORT] or smtps://…")
	}
	m := &Mail{cfg: cfg, host: u.Hostname(), implicit: u.Scheme == "smtps", user: u.User.Username()}
	if _, has := u.User.Password(); has {
		return nil, errors.New("a password belongs into a file of its own, not into the URL")
	}
	if (m.user == "") != (cfg.Password == nil) {
		return nil, errors.New("a user in the URL and a password file go together")
	}
	port := u.Port()
	if port == "" {
		if port = "587"; m.implicit {
			port = "465"
		}
	}
	m.address = net.JoinHostPort(m.host, port)
	if addr, err := netip.ParseAddr(m.host); err == nil {
		m.near = addr.Unmap().IsLoopback()
	} else {
		m.near = m.host == "localhost"
	}
	from, err := mail.ParseAddress(cfg.From)
	if err != nil {
		return nil, errors.New("the sender is no address: want one such as 'Latchkey <latchkey@example.com>'")
	}
	m.from = *from
	if m.cfg.TLS == nil {
		m.cfg.TLS = &tls.Config{MinVersion: tls.VersionTLS12}
	}
	m.cfg.TLS = m.cfg.TLS.Clone()
	m.cfg.TLS.ServerName = m.host
	return m, nil
}

// mail makes an attempt at a person.
func (s *Sender) mail(ctx context.Context, d *deliveries.Delivery) deliveries.Outcome {
	if s.cfg.Mail == nil { // it was configured when the delivery was made
		return deliveries.Outcome{Result: "mail_not_configured"}
	}
	now := s.cfg.Now()
	to, err := s.cfg.Mail.cfg.People.Reader(ctx, d.Customer, d.Recipient, d.RequestID, now)
	if err != nil {
		return s.unprepared(d, err)
	}
	e, err := s.cfg.Queue.Event(ctx, d.Customer, d.Seq)
	if err != nil {
		return s.unprepared(d, err)
	}
	link := s.cfg.Mail.cfg.Link
	if link != "" {
		link += url.PathEscape(d.RequestID)
	}
	letter, due, err := deliveries.Compose(&e, to, link)
	switch {
	case err != nil:
		return s.unprepared(d, err)
	case !due:
		return deliveries.Outcome{Result: "no_longer_due", Moot: true}
	case to.Email == "":
		return deliveries.Outcome{Result: "no_address", Final: true}
	}
	err = s.cfg.Mail.send(ctx, message{id: d.ID, to: to.Email, letter: letter, at: now})
	if err == nil {
		return deliveries.Outcome{Result: deliveries.OK}
	}
	o := deliveries.Outcome{Result: "mail_failed"}
	if refused, ok := errors.AsType[*refusal](err); ok {
		o = deliveries.Outcome{Result: "mail_refused", ReplyStatus: refused.code, Final: refused.code >= 500}
	}
	s.cfg.Log.Warn("delivery", "problem", "an e-mail was not taken", "delivery", d.ID, "error", s.cfg.Redact(err.Error()))
	return o
}

// refusal is a server's word on one e-mail.
type refusal struct {
	code int
	err  error
}

func (r *refusal) Error() string { return r.err.Error() }
func (r *refusal) Unwrap() error { return r.err }

type message struct {
	id     string
	to     string
	letter deliveries.Letter
	at     latchkey.Instant
}

// send hands an e-mail to the server. What the server says of this e-mail is a
// refusal; everything else is trouble with the server itself.
func (m *Mail) send(ctx context.Context, msg message) (err error) {
	to, err := mail.ParseAddress(msg.to)
	if err != nil || to.Address != msg.to || strings.ContainsAny(msg.to, "\r\n") {
		return &refusal{code: 553, err: errors.New("the address of the person is not one")}
	}
	conn, err := m.dial(ctx)
	if err != nil {
		return err
	}
	defer conn.Close() // again after Quit, or because of a failure
	stop := context.AfterFunc(ctx, func() { _ = conn.Close() })
	defer stop()
	c, err := smtp.NewClient(conn, m.host)
	if err != nil {
		return fmt.Errorf("greet the mail server: %w", err)
	}
	if err := m.secure(c); err != nil {
		return err
	}
	if m.user != "" {
		password, err := m.cfg.Password()
		if err != nil {
			return fmt.Errorf("the password of the mail server: %w", err)
		}
		if err := c.Auth(smtp.PlainAuth("", m.user, password, m.host)); err != nil {
			return fmt.Errorf("log in to the mail server: %w", err)
		}
	}
	if err := c.Mail(m.from.Address); err != nil {
		return fmt.Errorf("begin an e-mail: %w", err)
	}
	if err := c.Rcpt(to.Address); err != nil {
		return refused(err)
	}
	w, err := c.Data()
	if err != nil {
		return refused(err)
	}
	if _, err := w.Write(m.format(msg)); err != nil {
		return fmt.Errorf("send an e-mail: %w", err)
	}
	if err := w.Close(); err != nil {
		return refused(err)
	}
	_ = c.Quit() // it has the e-mail
	return nil
}

func refused(err error) error {
	if reply, ok := errors.AsType[*textproto.Error](err); ok {
		return &refusal{code: reply.Code, err: err}
	}
	return err
}

func (m *Mail) dial(ctx context.Context) (net.Conn, error) {
	d := &net.Dialer{Timeout: 10 * time.Second}
	var conn net.Conn
	var err error
	if m.implicit {
		conn, err = (&tls.Dialer{NetDialer: d, Config: m.cfg.TLS}).DialContext(ctx, "tcp", m.address)
	} else {
		conn, err = d.DialContext(ctx, "tcp", m.address)
	}
	if err != nil {
		return nil, fmt.Errorf("reach the mail server: %w", err)
	}
	if end, bounded := ctx.Deadline(); bounded {
		err = conn.SetDeadline(end)
	}
	return conn, err
}

// secure goes over to TLS. A server that does not offer it, or whose offer somebody
// between has taken out, is not told anything.
func (m *Mail) secure(c *smtp.Client) error {
	if m.implicit {
		return nil
	}
	if offered, _ := c.Extension("STARTTLS"); offered {
		if err := c.StartTLS(m.cfg.TLS); err != nil {
			return fmt.Errorf("go over to TLS with the mail server: %w", err)
		}
		return nil
	}
	if m.near || m.cfg.Insecure {
		return nil
	}
	return errors.New("the mail server offers no TLS")
}

// format writes an e-mail (RFC 5322). Every header is of our own making or encoded:
// nothing that a person wrote can begin another one.
func (m *Mail) format(msg message) []byte {
	var b bytes.Buffer
	header := func(name, value string) { b.WriteString(name + ": " + value + "\r\n") }
	header("From", m.from.String())
	header("To", (&mail.Address{Address: msg.to}).String())
	subject := mime.QEncoding.Encode("utf-8", strings.Join(strings.Fields(msg.letter.Subject), " "))
	header("Subject", strings.ReplaceAll(subject, "?= =?", "?=\r\n =?")) // folded: a line has 998 bytes at most
	header("Date", msg.at.Time().Format(time.RFC1123Z))
	_, domain, _ := strings.Cut(m.from.Address, "@")
	header("Message-ID", "<"+msg.id+"@"+domain+">") // the same of a repeat, which mail programs fold
	header("MIME-Version", "1.0")
	header("Content-Type", "text/plain; charset=utf-8")
	header("Content-Transfer-Encoding", "quoted-printable")
	header("Auto-Submitted", "auto-generated") // no answers of people who are away
	b.WriteString("\r\n")
	w := quotedprintable.NewWriter(&b)
	_, _ = w.Write([]byte(msg.letter.Text)) // to memory
	_ = w.Close()
	return b.Bytes()
}
