package main

import (
	"context"
	"errors"
	"net/url"
	"os"
	"strings"
	"time"

	"github.com/latchkey-dev/latchkey"
	"github.com/latchkey-dev/latchkey/access"
	"github.com/latchkey-dev/latchkey/authz"
	"github.com/latchkey-dev/latchkey/deliveries"
	"github.com/latchkey-dev/latchkey/feed"
	"github.com/latchkey-dev/latchkey/notify"
	"github.com/latchkey-dev/latchkey/server"
)

// Telling are the flags of what is told to others.
type Telling struct {
	AllowOutbound    []string `help:"Blocks or addresses that webhooks, tasks and providers may reach though they are not public, such as 10.1.0.0/16; repeated." sep:"," env:"LATCHKEY_ALLOW_OUTBOUND" placeholder:"CIDR"`
	SecretsKeyFile   string   `help:"File of keys that customers' secrets are sealed under, base64 of 32 bytes a line: the first one seals, all of them open. Where empty, a key of the keyring." type:"path" env:"LATCHKEY_SECRETS_KEY_FILE" placeholder:"FILE"`
	SMTPURL          string   `name:"smtp-url" help:"Mail server for e-mail about access requests: smtp://[USER@]HOST[:PORT], which must offer STARTTLS, or smtps://. None where empty." env:"LATCHKEY_SMTP_URL" placeholder:"URL"`
	SMTPPasswordFile string   `name:"smtp-password-file" help:"File of the mail user's password." type:"path" env:"LATCHKEY_SMTP_PASSWORD_FILE" placeholder:"FILE"`
	SMTPFrom         string   `name:"smtp-from" help:"Sender of e-mail, such as 'Latchkey <latchkey@example.com>'." env:"LATCHKEY_SMTP_FROM" placeholder:"ADDRESS"`
	SMTPInsecure     bool     `name:"smtp-insecure" help:"Send e-mail to another machine without TLS where its server offers none." env:"LATCHKEY_SMTP_INSECURE"`
	ConsoleURL       string   `help:"Where people decide on access requests, for the links in e-mail; the request's id comes after it. The API's public URL where empty." env:"LATCHKEY_CONSOLE_URL" placeholder:"URL"`
}

// openGuard makes what watches over the addresses that customers set.
func (t *Telling) openGuard() (*notify.Guard, error) {
	allowed, err := notify.ParseAllowed(t.AllowOutbound)
	if err != nil {
		return nil, usage("--allow-outbound: %w", err)
	}
	return notify.NewGuard(notify.GuardConfig{Allow: allowed}), nil
}

// openMail makes what sends e-mail, nil where there is none.
func (t *Telling) openMail(publicURL string, requests *access.Requests) (*notify.Mail, error) {
	if t.SMTPURL == "" {
		if t.SMTPFrom != "" || t.SMTPPasswordFile != "" {
			return nil, usage("--smtp-from and --smtp-password-file mean nothing without --smtp-url")
		}
		return nil, nil
	}
	link := strings.TrimSuffix(publicURL, "/") + "/v1/access-requests/"
	if t.ConsoleURL != "" {
		if u, err := url.Parse(t.ConsoleURL); err != nil || u.Scheme != "https" && u.Scheme != "http" || u.Host == "" || u.User != nil {
			return nil, usage("--console-url: want an http or https URL")
		}
		link = strings.TrimSuffix(t.ConsoleURL, "/") + "/"
	}
	cfg := notify.MailConfig{URL: t.SMTPURL, From: t.SMTPFrom, Insecure: t.SMTPInsecure, Link: link, People: readers{requests}}
	if t.SMTPPasswordFile != "" {
		cfg.Password = func() (string, error) {
			text, err := os.ReadFile(t.SMTPPasswordFile)
			if password := strings.TrimRight(string(text), "\r\n"); err != nil || password != "" {
				return password, err
			}
			return "", errors.New("the file is empty")
		}
		if _, err := cfg.Password(); err != nil {
			return nil, usage("--smtp-password-file: %w", err)
		}
	}
	mail, err := notify.NewMail(cfg)
	if err != nil {
		return nil, usage("--smtp-url: %w", err)
	}
	return mail, nil
}

// readers are people as e-mail knows them.
type readers struct{ requests *access.Requests }

// Reader implements deliveries.People.
func (r readers) Reader(ctx context.Context, customer, person, request string, now latchkey.Instant) (deliveries.Reader, error) {
	found, err := r.requests.Reader(ctx, customer, person, request)
	if err != nil {
		return deliveries.Reader{}, err
	}
	to := deliveries.Reader{Email: found.Person.Email, Name: found.Person.Name, Decides: found.Decides, Pending: found.Request.StatusAt(now) == access.Pending}
	if found.Decides {
		to.Justification = found.Request.Justification
	}
	if found.Request.Assignment == access.Temporary {
		to.Duration = found.Request.Duration.Duration()
	}
	return to, nil
}

// telling is what makes deliveries and sends them.
type telling struct {
	maker  *deliveries.Maker
	sender *notify.Sender
	wake   chan struct{}
}

// openDeliveries gives the server the service of webhooks, and makes what delivers.
func (n *node) openDeliveries(cmd *ServeCmd, cfg *server.Config) error {
	queue := n.db.Deliveries()
	cfg.Webhooks = deliveries.New(deliveries.Config{Record: queue, Vault: n.vault, Addresses: n.guard})
	mail, err := cmd.openMail(cfg.PublicURL, cfg.Requests)
	if err != nil {
		return err
	}
	n.telling = &telling{maker: deliveries.NewMaker(queue, mail != nil), wake: make(chan struct{}, 1)}
	n.telling.sender = notify.NewSender(notify.SenderConfig{
		Queue: queue, Vault: n.vault, Guard: n.guard, Mail: mail, Log: n.log, Registry: n.registry,
		Now: func() latchkey.Instant { return latchkey.InstantOf(n.now()) }, Redact: authz.Redact,
	})
	n.follow.Observe(func(_ string, t authz.Touched) {
		for _, ref := range t.Refs {
			if ref.Kind == feed.Request {
				n.telling.kick()
				return
			}
		}
	})
	return nil
}

func (t *telling) kick() {
	select {
	case t.wake <- struct{}{}:
	default:
	}
}

// keptDeliveries is for how long deliveries that have ended are shown.
const keptDeliveries = 30 * 24 * time.Hour

// deliver makes and sends deliveries until ctx ends.
func (n *node) deliver(ctx context.Context) {
	t := n.telling
	defer t.sender.Close()
	ticks, sweeps := time.NewTicker(time.Second), time.NewTicker(time.Hour)
	defer ticks.Stop()
	defer sweeps.Stop()
	making := true // only an attempt that has ended makes no deliveries
	for {
		now := latchkey.InstantOf(n.now())
		if making {
			if _, err := t.maker.RunOnce(ctx, now); err != nil && ctx.Err() == nil {
				n.say("deliveries cannot be made of events", "deliveries", err)
			}
		}
		if _, err := t.sender.RunOnce(ctx, now); err != nil && ctx.Err() == nil {
			n.say("deliveries cannot be sent", "deliveries", err)
		}
		making = true
		select {
		case <-ctx.Done():
			return
		case <-ticks.C:
		case <-t.wake:
		case <-t.sender.Freed():
			making = false
		case <-sweeps.C:
			if _, err := n.db.SweepDeliveries(ctx, now.Add(-keptDeliveries)); err != nil && ctx.Err() == nil {
				n.log.Warn("background", "job", "deliveries", "error", err.Error())
			}
		}
	}
}
