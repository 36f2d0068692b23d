package tasks

import (
	"crypto/sha256"
	"encoding/hex"
	"net/url"
	"strconv"

	"github.com/latchkey-dev/latchkey"
	"github.com/latchkey-dev/latchkey/audit"
	"github.com/latchkey-dev/latchkey/internal/strictjson"
)

// Type is what a task does.
type Type string

// The types of tasks.
const (
	// Script runs Go source in a confined process.
	Script Type = "script"
	// Webhook posts the event to a URL, signed.
	Webhook Type = "webhook"
)

// ScheduleOnce is the one schedule there is: a task runs once for what triggers it.
const ScheduleOnce = "once"

// Limits of a customer's tasks and secrets.
const (
	MaxTasks       = 200
	MaxSecrets     = 200
	MaxRetries     = 10
	maxTaskSecrets = 32
	maxSecret      = 16 << 10 // bytes
	maxName        = 200      // characters
	// DefaultRetries are those of a task that does not say.
	DefaultRetries = 3
)

// Task is something that can be run.
type Task struct {
	ID       string // UUID
	Customer string
	Name     string // a customer's own
	Type     Type
	Script   string // Go source; of a script
	URL      string // of a webhook
	// Secrets are the names of those that the script may read, in their order.
	Secrets    []string
	MaxRetries int
	CreatedAt  latchkey.Instant
	UpdatedAt  latchkey.Instant
	Version    int64 // sequence number of the last change
}

// Settings are what a caller says of a task.
type Settings struct {
	Name       string
	Type       Type
	Script     string
	URL        string
	Secrets    []string
	MaxRetries int
}

func (t *Task) resource() audit.Resource {
	return audit.Resource{Type: "task", Name: t.Name, ID: t.ID}
}

// changes are what the audit trail tells of a task: of a script its hash, of a URL
// its host, since the rest of it may be a secret.
func (t *Task) changes() string {
	b := strictjson.AppendString([]byte(`{"task_type":`), string(t.Type))
	if t.Type == Script {
		sum := sha256.Sum256([]byte(t.Script))
		b = strictjson.AppendString(append(b, `,"script_sha256":`...), hex.EncodeToString(sum[:]))
	} else if u, err := url.Parse(t.URL); err == nil {
		b = strictjson.AppendString(append(b, `,"url_host":`...), u.Host)
	}
	b = strictjson.AppendStrings(append(b, `,"secrets":`...), t.Secrets)
	b = strconv.AppendInt(append(b, `,"max_retries":`...), int64(t.MaxRetries), 10)
	return string(append(b, '}'))
}

// AppendJSON appends a task as the API shows it. secret is the one that signs what
// a new webhook sends, shown once; "" for none.
func (t *Task) AppendJSON(b []byte, secret string) []byte {
	b = strictjson.AppendString(append(b, `{"id":`...), t.ID)
	b = strictjson.AppendString(append(b, `,"name":`...), t.Name)
	b = strictjson.AppendString(append(b, `,"task_type":`...), string(t.Type))
	b = append(b, `,"schedule_type":"`+ScheduleOnce+`"`...)
	if t.Type == Script {
		b = strictjson.AppendString(append(b, `,"script":`...), t.Script)
		b = strictjson.AppendStrings(append(b, `,"secrets":`...), t.Secrets)
	} else {
		b = strictjson.AppendString(append(b, `,"url":`...), t.URL)
	}
	b = strconv.AppendInt(append(b, `,"max_retries":`...), int64(t.MaxRetries), 10)
	if secret != "" {
		b = strictjson.AppendString(append(b, `,"secret":`...), secret)
	}
	b = appendInstant(append(b, `,"created_at":`...), t.CreatedAt)
	b = appendInstant(append(b, `,"updated_at":`...), t.UpdatedAt)
	return append(b, '}')
}

// appendInstant appends a time, null for 0.
func appendInstant(b []byte, at latchkey.Instant) []byte {
	if at == 0 {
		return append(b, `null`...)
	}
	return append(at.AppendText(append(b, '"')), '"')
}
