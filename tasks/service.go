package tasks

import (
	"context"
	"crypto/rand"
	"encoding/base64"
	"strings"

	"github.com/google/uuid"

	"github.com/latchkey-dev/latchkey"
	"github.com/latchkey-dev/latchkey/audit"
	"github.com/latchkey-dev/latchkey/authz"
	"github.com/latchkey-dev/latchkey/internal/strictjson"
	"github.com/latchkey-dev/latchkey/internal/vault"
)

// What is sealed, by kind: a secret of a customer, which scripts read, and that
// which signs what the task Owner sends.
const (
	secretKind   = "secret"
	signingKind  = "task"
	signingName  = "signing"
	secretPrefix = "whsec_" // of Standard Webhooks
)

// Tasks is the service of tasks and secrets. Safe for concurrent use.
type Tasks struct{ cfg Config }

// Config are the collaborators of Tasks.
type Config struct {
	Record Record
	Vault  *vault.Vault
	Checks Checks
	// Scripts says that the operator lets scripts run.
	Scripts bool
}

// New makes the service.
func New(cfg Config) *Tasks { return &Tasks{cfg: cfg} }

// May allows managers.
func (*Tasks) May(c *authz.Caller) error { return authz.MayManage(c) }

const invalidScript = "invalid_script"

// admit lets root alone write scripts: they are programs that the server runs. It
// refuses one that does not compile.
func (s *Tasks) admit(ctx context.Context, c *authz.Caller, in *Settings) error {
	if err := s.May(c); err != nil || in.Type != Script {
		return err
	}
	if !c.IsRoot() {
		return latchkey.Errorf(latchkey.Forbidden, "root_required", "only the root key makes and changes tasks of type script")
	}
	if !s.cfg.Scripts {
		return latchkey.Errorf(latchkey.Conflict, "script_tasks_disabled", "the operator has not enabled tasks of type script")
	}
	why, err := s.cfg.Checks.CompileScript(ctx, in.Script)
	if err == nil && why != "" {
		err = latchkey.InvalidFaults(latchkey.Fault{Pointer: "/script", Code: invalidScript, Detail: why})
	}
	return err
}

// Parse reads settings as ParseSettings does.
func (s *Tasks) Parse(body strictjson.Value) (Settings, error) {
	return ParseSettings(body, s.cfg.Checks)
}

// Made is a new task with the secret that signs what a webhook sends: shown once.
type Made struct {
	Task
	Secret string
}

// Create makes a task. A name that another one has, and MaxTasks a customer, are a
// Conflict.
func (s *Tasks) Create(ctx context.Context, call authz.Call, in Settings) (made Made, err error) {
	if err := s.admit(ctx, &call.Caller, &in); err != nil {
		return Made{}, err
	}
	t := in.put(Task{ID: uuid.NewString(), Customer: call.Customer.ID, CreatedAt: call.Now, UpdatedAt: call.Now})
	err = s.cfg.Record.Change(ctx, call.Change(func() any { return made }), func(tx Tx) (audit.Draft, error) {
		made = Made{Task: t}
		n, err := tx.CountTasks(ctx)
		if err != nil {
			return audit.Draft{}, err
		}
		if n >= MaxTasks {
			return audit.Draft{}, latchkey.Errorf(latchkey.Conflict, "too_many_tasks", "the customer has %d tasks; delete one first", n)
		}
		made.Version = tx.Seq()
		if err := tx.InsertTask(ctx, made.Task); err != nil {
			return audit.Draft{}, err
		}
		if made.Type == Webhook {
			if made.Secret, err = s.newSigning(ctx, tx, &made.Task); err != nil {
				return audit.Draft{}, err
			}
		}
		return draft(call, "task.create", &made.Task), nil
	})
	return made, err
}

func (s *Tasks) newSigning(ctx context.Context, tx Tx, t *Task) (string, error) {
	key := make([]byte, 32)
	rand.Read(key)
	l := signingLabel(t)
	err := tx.PutSecret(ctx, vault.Sealed{Label: l, Box: s.cfg.Vault.Seal(l, key), CreatedAt: t.CreatedAt, EndsAt: latchkey.Never})
	return secretPrefix + base64.StdEncoding.EncodeToString(key), err
}

func signingLabel(t *Task) vault.Label {
	return vault.Label{Customer: t.Customer, Kind: signingKind, Owner: t.ID, Name: signingName}
}

func (in *Settings) put(t Task) Task {
	t.Name, t.Type, t.Script, t.URL, t.Secrets, t.MaxRetries = in.Name, in.Type, in.Script, in.URL, in.Secrets, in.MaxRetries
	if t.Secrets == nil {
		t.Secrets = []string{}
	}
	return t
}

func draft(call authz.Call, action string, t *Task) audit.Draft {
	d := call.Draft(action, t.resource())
	d.Changes = t.changes()
	return d
}

// Update replaces a task's settings; its type never changes.
func (s *Tasks) Update(ctx context.Context, call authz.Call, id string, in Settings) (t Task, err error) {
	if err := s.admit(ctx, &call.Caller, &in); err != nil {
		return Task{}, err
	}
	err = s.cfg.Record.Change(ctx, call.Change(func() any { return t }), func(tx Tx) (audit.Draft, error) {
		was, err := tx.Task(ctx, id)
		if err != nil {
			return audit.Draft{}, err
		}
		if was.Type != in.Type {
			return audit.Draft{}, latchkey.InvalidFaults(latchkey.Fault{Pointer: "/task_type", Code: "immutable", Detail: "the type of a task never changes: make another one"})
		}
		t = in.put(was)
		t.UpdatedAt, t.Version = call.Now, tx.Seq()
		if err := tx.UpdateTask(ctx, t); err != nil {
			return audit.Draft{}, err
		}
		return draft(call, "task.update", &t), nil
	})
	return t, err
}

// Delete deletes a task with its runs. One that a template or a subscription runs
// is a Conflict.
func (s *Tasks) Delete(ctx context.Context, call authz.Call, id string) error {
	if err := s.May(&call.Caller); err != nil {
		return err
	}
	return s.cfg.Record.Change(ctx, call.Change(nil), func(tx Tx) (audit.Draft, error) {
		t, err := tx.Task(ctx, id)
		if err != nil {
			return audit.Draft{}, err
		}
		switch by, err := tx.UsedBy(ctx, "task", id); {
		case err != nil:
			return audit.Draft{}, err
		case by != "":
			return audit.Draft{}, latchkey.Errorf(latchkey.Conflict, "task_in_use", "%s runs the task", by)
		}
		if err := tx.DeleteSecrets(ctx, signingKind, id); err != nil {
			return audit.Draft{}, err
		}
		if err := tx.DeleteTask(ctx, id); err != nil {
			return audit.Draft{}, err
		}
		return draft(call, "task.delete", &t), nil
	})
}

// Get returns one task.
func (s *Tasks) Get(ctx context.Context, call authz.Call, id string) (Task, error) {
	if err := s.May(&call.Caller); err != nil {
		return Task{}, err
	}
	return s.cfg.Record.Task(ctx, call.Customer.ID, id)
}

// List lists tasks, oldest first.
func (s *Tasks) List(ctx context.Context, call authz.Call, p Page) ([]Task, error) {
	if err := s.May(&call.Caller); err != nil {
		return nil, err
	}
	return s.cfg.Record.Tasks(ctx, call.Customer.ID, p)
}

// Runs lists the runs of a task, newest first.
func (s *Tasks) Runs(ctx context.Context, call authz.Call, id string, p Page) ([]Run, error) {
	if _, err := s.Get(ctx, call, id); err != nil {
		return nil, err
	}
	return s.cfg.Record.Runs(ctx, call.Customer.ID, id, p)
}

// SecretInfo tells of a secret; its value is never shown.
type SecretInfo struct {
	Name      string
	UpdatedAt latchkey.Instant
}

func secretLabel(customer, name string) vault.Label {
	return vault.Label{Customer: customer, Kind: secretKind, Name: name}
}

func checkSecretName(name string) error {
	if !ValidSecretName(name) {
		return latchkey.InvalidFaults(latchkey.Fault{Pointer: "path:name", Code: "invalid_name", Detail: namingRule})
	}
	return nil
}

// PutSecret seals a value under a name, in place of the one of before. MaxSecrets a
// customer are a Conflict.
func (s *Tasks) PutSecret(ctx context.Context, call authz.Call, name, value string) (info SecretInfo, err error) {
	if err := s.May(&call.Caller); err != nil {
		return info, err
	}
	if err := checkSecretName(name); err != nil {
		return info, err
	}
	info = SecretInfo{Name: name, UpdatedAt: call.Now}
	l := secretLabel(call.Customer.ID, name)
	box := s.cfg.Vault.Seal(l, []byte(value))
	err = s.cfg.Record.Change(ctx, call.Change(func() any { return info }), func(tx Tx) (audit.Draft, error) {
		there, err := tx.Secrets(ctx, secretKind, "")
		if err != nil {
			return audit.Draft{}, err
		}
		action := "secret.create"
		for _, one := range there {
			if one.Name == name {
				action = "secret.update"
			}
		}
		if action == "secret.create" && len(there) >= MaxSecrets {
			return audit.Draft{}, latchkey.Errorf(latchkey.Conflict, "too_many_secrets", "the customer has %d secrets; delete one first", len(there))
		}
		if err := tx.PutSecret(ctx, vault.Sealed{Label: l, Box: box, CreatedAt: call.Now, EndsAt: latchkey.Never}); err != nil {
			return audit.Draft{}, err
		}
		return call.Draft(action, audit.Resource{Type: "secret", Name: name, ID: name}), nil
	})
	return info, err
}

// Secrets lists the names of secrets, in their order.
func (s *Tasks) Secrets(ctx context.Context, call authz.Call) ([]SecretInfo, error) {
	if err := s.May(&call.Caller); err != nil {
		return nil, err
	}
	sealed, err := s.cfg.Record.Secrets(ctx, call.Customer.ID, secretKind, "")
	list := make([]SecretInfo, len(sealed))
	for i, one := range sealed {
		list[i] = SecretInfo{Name: strings.Clone(one.Name), UpdatedAt: one.CreatedAt}
	}
	return list, err
}

// DeleteSecret deletes one. A script that reads it fails from then on.
func (s *Tasks) DeleteSecret(ctx context.Context, call authz.Call, name string) error {
	if err := s.May(&call.Caller); err != nil {
		return err
	}
	return s.cfg.Record.Change(ctx, call.Change(nil), func(tx Tx) (audit.Draft, error) {
		found, err := tx.DeleteSecret(ctx, secretKind, "", name)
		if err == nil && !found {
			err = latchkey.Errorf(latchkey.NotFound, "secret_not_found", "there is no such secret")
		}
		if err != nil {
			return audit.Draft{}, err
		}
		return call.Draft("secret.delete", audit.Resource{Type: "secret", Name: name, ID: name}), nil
	})
}
