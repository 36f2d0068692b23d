package server_test

import (
	"bytes"
	"context"
	"testing"

	"github.com/google/uuid"

	"github.com/latchkey-dev/latchkey"
	"github.com/latchkey-dev/latchkey/audit"
	"github.com/latchkey-dev/latchkey/authz"
	"github.com/latchkey-dev/latchkey/deliveries"
	"github.com/latchkey-dev/latchkey/internal/vault"
	"github.com/latchkey-dev/latchkey/notify"
	"github.com/latchkey-dev/latchkey/store"
	"github.com/latchkey-dev/latchkey/tasks"
)

func testVault(t testing.TB) *vault.Vault {
	t.Helper()
	v, err := vault.New(bytes.Repeat([]byte{7}, vault.KeyBytes))
	if err != nil {
		t.Fatal(err)
	}
	return v
}

// taskService is the service of tasks as the program makes it; nothing runs them.
func taskService(t testing.TB, db *store.DB, scripts bool) *tasks.Tasks {
	t.Helper()
	executor := notify.NewTaskExecutor(notify.NewGuard(notify.GuardConfig{}), nil)
	t.Cleanup(executor.Close)
	return tasks.New(tasks.Config{Record: db.Tasks(), Vault: testVault(t), Checks: executor, Scripts: scripts})
}

// useTask makes a subscription that runs the task.
func useTask(t testing.TB, db *store.DB, customer, task string) {
	t.Helper()
	err := db.Deliveries().Change(context.Background(), authz.Change{Chain: customer, At: 1}, func(tx deliveries.Tx) (audit.Draft, error) {
		w := deliveries.Webhook{ID: uuid.NewString(), Customer: customer, TaskID: task, Events: []string{"access_request.approved"}, CreatedAt: 1, Since: tx.Seq()}
		return audit.Draft{ID: uuid.NewString(), At: latchkey.Instant(1), Actor: audit.Actor{Type: "system", ID: "system"}, Action: "webhook.create", Outcome: "success"}, tx.InsertWebhook(context.Background(), w)
	})
	if err != nil {
		t.Fatal(err)
	}
}
