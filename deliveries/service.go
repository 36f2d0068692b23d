package deliveries

import (
	"context"
	"maps"
	"net/url"
	"slices"
	"time"

	"github.com/google/uuid"

	"github.com/latchkey-dev/latchkey"
	"github.com/latchkey-dev/latchkey/audit"
	"github.com/latchkey-dev/latchkey/authz"
	"github.com/latchkey-dev/latchkey/internal/strictjson"
	"github.com/latchkey-dev/latchkey/internal/vault"
)

// MaxGrace is the longest time that a rotated secret may go on signing.
const MaxGrace = 30 * 24 * time.Hour

// maxSecrets is how many secrets of a webhook may be good at a time: each is one
// more signature.
const maxSecrets = 5

// Webhooks is the service of webhooks. Safe for concurrent use.
type Webhooks struct {
	cfg Config
}

// Config are the collaborators of Webhooks.
type Config struct {
	Record    Record
	Vault     *vault.Vault
	Addresses Addresses
}

// New makes the service.
func New(cfg Config) *Webhooks { return &Webhooks{cfg: cfg} }

var (
	errNotFound         = latchkey.Errorf(latchkey.NotFound, "webhook_not_found", "there is no such webhook")
	errDeliveryNotFound = latchkey.Errorf(latchkey.NotFound, "delivery_not_found", "there is no such delivery")
)

// May allows managers.
func (*Webhooks) May(c *authz.Caller) error { return authz.MayManage(c) }

// Parse reads settings as ParseSettings does.
func (s *Webhooks) Parse(body strictjson.Value) (Settings, error) {
	return ParseSettings(body, s.cfg.Addresses)
}

// Shown is a webhook with what is told of its secrets.
type Shown struct {
	Webhook
	Secrets []SecretInfo // oldest first; those that have ended too, until they go
	// Secret is the new one, where there is one: shown this once.
	Secret string
}

// SecretInfo tells of a secret that signs.
type SecretInfo struct {
	CreatedAt latchkey.Instant
	EndsAt    latchkey.Instant // latchkey.Never for none
}

// Create makes a webhook. MaxWebhooks a customer are a Conflict.
func (s *Webhooks) Create(ctx context.Context, call authz.Call, in Settings) (made Shown, err error) {
	if err := s.May(&call.Caller); err != nil {
		return made, err
	}
	if in.Compat != "" && in.CompatSecret == "" {
		return made, errNoCompatSecret()
	}
	w := Webhook{ID: uuid.NewString(), Customer: call.Customer.ID, CreatedAt: call.Now}
	err = s.cfg.Record.Change(ctx, call.Change(func() any { return made }), func(tx Tx) (audit.Draft, error) {
		n, err := tx.CountWebhooks(ctx)
		if err != nil {
			return audit.Draft{}, err
		}
		if n >= MaxWebhooks {
			return audit.Draft{}, latchkey.Errorf(latchkey.Conflict, "too_many_webhooks", "the customer has %d webhooks; delete one first", n)
		}
		w.Since = tx.Seq()
		made = Shown{Webhook: w}
		if err := s.set(ctx, tx, &made.Webhook, in, call.Now); err != nil {
			return audit.Draft{}, err
		}
		if in.URL != "" {
			key := newSecret()
			made.Secret = formatSecret(key)
			if err := s.put(ctx, tx, &made.Webhook, secretName(tx.Seq()), key, call.Now); err != nil {
				return audit.Draft{}, err
			}
			made.Secrets = []SecretInfo{{call.Now, latchkey.Never}}
		}
		if err := tx.InsertWebhook(ctx, made.Webhook); err != nil {
			return audit.Draft{}, err
		}
		return made.draft(call, "webhook.create"), nil
	})
	return made, err
}

func errNoCompatSecret() error {
	return latchkey.InvalidFaults(latchkey.Fault{Pointer: "/compat_secret", Code: "missing_member", Detail: `compat: "indent" needs the secret of the receiver`})
}

// set makes w what the settings say, sealing what is secret of them.
func (s *Webhooks) set(ctx context.Context, tx Tx, w *Webhook, in Settings, now latchkey.Instant) error {
	w.URL, w.TaskID, w.Events, w.Compat, w.Description, w.Version = in.URL, in.TaskID, in.Events, in.Compat, in.Description, tx.Seq()
	if in.TaskID != "" {
		switch found, err := tx.HasTask(ctx, in.TaskID); {
		case err != nil:
			return err
		case !found:
			return latchkey.InvalidFaults(latchkey.Fault{Pointer: "/task_id", Code: "unknown_task", Detail: "there is no such task"})
		}
	}
	was := w.Headers
	w.Headers = slices.Sorted(maps.Keys(in.Headers))
	for _, name := range w.Headers {
		value := in.Headers[name]
		if value == nil {
			if !slices.Contains(was, name) {
				return latchkey.InvalidFaults(latchkey.Fault{Pointer: strictjson.Pointer("/headers", name), Code: "missing_value", Detail: "there is no value yet that could be kept"})
			}
			continue
		}
		if err := s.put(ctx, tx, w, headerName(name), []byte(*value), now); err != nil {
			return err
		}
	}
	for _, name := range was {
		if _, kept := in.Headers[name]; !kept {
			if _, err := tx.DeleteSecret(ctx, sealedKind, w.ID, headerName(name)); err != nil {
				return err
			}
		}
	}
	switch {
	case in.CompatSecret != "":
		return s.put(ctx, tx, w, compatName, []byte(in.CompatSecret), now)
	case in.Compat == "":
		_, err := tx.DeleteSecret(ctx, sealedKind, w.ID, compatName)
		return err
	}
	return nil
}

func (s *Webhooks) put(ctx context.Context, tx Tx, w *Webhook, name string, plain []byte, now latchkey.Instant) error {
	l := vault.Label{Customer: w.Customer, Kind: sealedKind, Owner: w.ID, Name: name}
	return tx.PutSecret(ctx, vault.Sealed{Label: l, Box: s.cfg.Vault.Seal(l, plain), CreatedAt: now, EndsAt: latchkey.Never})
}

// Get returns one webhook.
func (s *Webhooks) Get(ctx context.Context, call authz.Call, id string) (Shown, error) {
	if err := s.May(&call.Caller); err != nil {
		return Shown{}, err
	}
	if !authz.IsID(id) {
		return Shown{}, errNotFound
	}
	w, err := s.cfg.Record.Webhook(ctx, call.Customer.ID, id)
	if err != nil {
		return Shown{}, err
	}
	return s.shown(ctx, w)
}

func (s *Webhooks) shown(ctx context.Context, w Webhook) (Shown, error) {
	sealed, err := s.cfg.Record.Secrets(ctx, w.Customer, sealedKind, w.ID)
	return Shown{Webhook: w, Secrets: secretInfos(sealed)}, err
}

func secretInfos(sealed []vault.Sealed) (list []SecretInfo) {
	for _, s := range sealed {
		if isSecretName(s.Name) {
			list = append(list, SecretInfo{s.CreatedAt, s.EndsAt})
		}
	}
	return list
}

// List returns the customer's webhooks, oldest first; there are never more than
// MaxWebhooks.
func (s *Webhooks) List(ctx context.Context, call authz.Call) ([]Shown, error) {
	if err := s.May(&call.Caller); err != nil {
		return nil, err
	}
	found, err := s.cfg.Record.Webhooks(ctx, call.Customer.ID)
	if err != nil {
		return nil, err
	}
	list := make([]Shown, len(found))
	for i, w := range found {
		if list[i], err = s.shown(ctx, w); err != nil {
			return nil, err
		}
	}
	return list, nil
}

// Update replaces what a webhook is. A URL does not become a task, nor a task a
// URL. Values of headers that are kept stay with the server that they were given
// for: with a URL of another one they must be given again, or whoever manages
// webhooks could have them sent to a place of their own.
func (s *Webhooks) Update(ctx context.Context, call authz.Call, id string, in Settings) (w Shown, err error) {
	if err := s.May(&call.Caller); err != nil {
		return w, err
	}
	if !authz.IsID(id) {
		return w, errNotFound
	}
	err = s.cfg.Record.Change(ctx, call.Change(func() any { return w }), func(tx Tx) (audit.Draft, error) {
		was, err := tx.Webhook(ctx, id)
		if err != nil {
			return audit.Draft{}, err
		}
		if err := was.mayBecome(in); err != nil {
			return audit.Draft{}, err
		}
		w = Shown{Webhook: was}
		if err := s.set(ctx, tx, &w.Webhook, in, call.Now); err != nil {
			return audit.Draft{}, err
		}
		if err := tx.UpdateWebhook(ctx, w.Webhook); err != nil {
			return audit.Draft{}, err
		}
		sealed, err := tx.Secrets(ctx, sealedKind, id)
		w.Secrets = secretInfos(sealed)
		return w.draft(call, "webhook.update"), err
	})
	return w, err
}

func (w *Webhook) mayBecome(in Settings) error {
	switch {
	case (w.URL == "") != (in.URL == ""):
		return latchkey.InvalidFaults(latchkey.Fault{Code: "target_immutable", Detail: "a webhook for a URL does not become one for a task, nor the other way round: make another one"})
	case in.Compat != "" && w.Compat == "" && in.CompatSecret == "":
		return errNoCompatSecret()
	case origin(w.URL) == origin(in.URL):
		return nil
	}
	for name, value := range in.Headers {
		if value == nil {
			return latchkey.InvalidFaults(latchkey.Fault{Pointer: strictjson.Pointer("/headers", name), Code: "value_of_another_server",
				Detail: "the URL leads to another server: give the values of its headers"})
		}
	}
	return nil
}

// origin is the scheme, host and port of a URL, "" for none.
func origin(text string) string {
	u, err := url.Parse(text)
	if err != nil || u.Host == "" {
		return ""
	}
	return u.Scheme + "://" + u.Host
}

// Delete deletes a webhook, its secrets, and its deliveries.
func (s *Webhooks) Delete(ctx context.Context, call authz.Call, id string) error {
	if err := s.May(&call.Caller); err != nil {
		return err
	}
	if !authz.IsID(id) {
		return errNotFound
	}
	return s.cfg.Record.Change(ctx, call.Change(nil), func(tx Tx) (audit.Draft, error) {
		w, err := tx.Webhook(ctx, id)
		if err != nil {
			return audit.Draft{}, err
		}
		if err := tx.DeleteSecrets(ctx, sealedKind, id); err != nil {
			return audit.Draft{}, err
		}
		return w.draft(call, "webhook.delete"), tx.DeleteWebhook(ctx, id)
	})
}

// Rotate gives a webhook a new secret. Those of before go on signing beside it
// for the grace, 0 to MaxGrace.
func (s *Webhooks) Rotate(ctx context.Context, call authz.Call, id string, grace time.Duration) (w Shown, err error) {
	if err := s.May(&call.Caller); err != nil {
		return w, err
	}
	if !authz.IsID(id) {
		return w, errNotFound
	}
	err = s.cfg.Record.Change(ctx, call.Change(func() any { return w }), func(tx Tx) (audit.Draft, error) {
		found, err := tx.Webhook(ctx, id)
		if err != nil {
			return audit.Draft{}, err
		}
		if found.URL == "" {
			return audit.Draft{}, latchkey.Errorf(latchkey.Conflict, "no_secret", "a webhook for a task has no secret")
		}
		w = Shown{Webhook: found}
		sealed, err := tx.Secrets(ctx, sealedKind, id)
		if err != nil {
			return audit.Draft{}, err
		}
		for _, old := range sealed {
			if !isSecretName(old.Name) {
				continue
			}
			if old.EndsAt = min(old.EndsAt, call.Now.Add(grace)); old.EndsAt <= call.Now {
				if _, err := tx.DeleteSecret(ctx, old.Kind, old.Owner, old.Name); err != nil {
					return audit.Draft{}, err
				}
				continue
			}
			if err := tx.PutSecret(ctx, old); err != nil {
				return audit.Draft{}, err
			}
			w.Secrets = append(w.Secrets, SecretInfo{old.CreatedAt, old.EndsAt})
		}
		if len(w.Secrets) >= maxSecrets {
			return audit.Draft{}, latchkey.Errorf(latchkey.Conflict, "too_many_secrets", "%d secrets of the webhook are still good; rotate with a shorter grace", len(w.Secrets))
		}
		key := newSecret()
		w.Secret = formatSecret(key)
		w.Secrets = append(w.Secrets, SecretInfo{call.Now, latchkey.Never})
		if err := s.put(ctx, tx, &w.Webhook, secretName(tx.Seq()), key, call.Now); err != nil {
			return audit.Draft{}, err
		}
		w.Version = tx.Seq()
		d := call.Draft("webhook.rotate", w.resource())
		d.Changes = authz.Changes("grace", grace.String())
		return d, tx.UpdateWebhook(ctx, w.Webhook)
	})
	return w, err
}

// Deliveries returns those of a webhook, latest event first. ByEmail in place of
// its id, which is q's target, stands for the customer's e-mail.
func (s *Webhooks) Deliveries(ctx context.Context, call authz.Call, q Query) ([]Delivery, error) {
	if err := s.May(&call.Caller); err != nil {
		return nil, err
	}
	if q.Target == string(ByEmail) {
		q.Target = EmailTarget(call.Customer.ID)
	} else if _, err := s.Get(ctx, call, q.Target); err != nil {
		return nil, err
	}
	q.Customer = call.Customer.ID
	return s.cfg.Record.Deliveries(ctx, q)
}

// Replay makes a delivery that was made, or is dead, due once more. Its id stays,
// so that a receiver which has it already can tell. ByEmail stands for the customer's
// e-mail, as in Deliveries.
func (s *Webhooks) Replay(ctx context.Context, call authz.Call, webhook, id string) (d Delivery, err error) {
	if err := s.May(&call.Caller); err != nil {
		return d, err
	}
	target, resource := webhook, audit.Resource{Type: "webhook", ID: webhook}
	switch {
	case webhook == string(ByEmail):
		target = EmailTarget(call.Customer.ID)
	case !authz.IsID(webhook):
		return d, errNotFound
	}
	if !authz.IsID(id) {
		return d, errDeliveryNotFound
	}
	err = s.cfg.Record.Change(ctx, call.Change(func() any { return d }), func(tx Tx) (audit.Draft, error) {
		if target == webhook {
			w, err := tx.Webhook(ctx, webhook)
			if err != nil {
				return audit.Draft{}, err
			}
			resource = w.resource()
		}
		var err error
		if d, err = tx.Delivery(ctx, target, id); err != nil {
			return audit.Draft{}, err
		}
		if d.Status == Pending {
			return audit.Draft{}, latchkey.Errorf(latchkey.Conflict, "delivery_pending", "the delivery is still under way")
		}
		d = d.Again(call.Now)
		draft := call.Draft("webhook.replay", resource)
		draft.Changes = authz.Changes("delivery_id", d.ID, "event", d.Event, "request_id", d.RequestID)
		return draft, tx.UpdateDelivery(ctx, d)
	})
	return d, err
}

func (w *Webhook) resource() audit.Resource {
	name := origin(w.URL) // the rest of a URL is often what proves who calls
	if w.TaskID != "" {
		name = "task:" + w.TaskID
	}
	return audit.Resource{Type: "webhook", Name: name, ID: w.ID}
}

func (w *Webhook) draft(call authz.Call, action string) audit.Draft {
	d := call.Draft(action, w.resource())
	b := strictjson.AppendStrings([]byte(`{"events":`), w.Events)
	b = strictjson.AppendStrings(append(b, `,"headers":`...), w.Headers)
	b = strictjson.AppendString(append(b, `,"compat":`...), w.Compat)
	d.Changes = string(append(b, '}'))
	return d
}
