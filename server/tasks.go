package server

import (
	"context"
	"net/http"

	"github.com/latchkey-dev/latchkey/authz"
	"github.com/latchkey-dev/latchkey/internal/strictjson"
	"github.com/latchkey-dev/latchkey/people"
	"github.com/latchkey-dev/latchkey/tasks"
)

// createTask takes {name, task_type, schedule_type?, script | url, secrets?,
// max_retries?}, and shows the secret that signs what a webhook sends.
func (s *Server) createTask(r *request) error {
	return once(r, func(call authz.Call) (tasks.Made, error) {
		in, err := s.cfg.Tasks.Parse(r.root())
		if err != nil {
			return tasks.Made{}, err
		}
		ctx, cancel := r.context()
		defer cancel()
		return s.cfg.Tasks.Create(ctx, call, in)
	}, func(m tasks.Made) reply {
		return reply{Status: http.StatusCreated, Location: "/v1/tasks/" + m.ID, Body: m.AppendJSON(nil, m.Secret)}
	})
}

func (s *Server) getTask(r *request) error {
	ctx, cancel := r.context()
	defer cancel()
	t, err := s.cfg.Tasks.Get(ctx, r.call(), r.named("id"))
	if err != nil {
		return err
	}
	r.out = t.AppendJSON(r.out[:0], "")
	return r.json(http.StatusOK)
}

func (s *Server) listTasks(r *request) error {
	q := r.query("limit", "cursor")
	return listed(r, q, q.people("task"), "tasks", func(ctx context.Context, call authz.Call, p people.Query) ([]tasks.Task, error) {
		return s.cfg.Tasks.List(ctx, call, tasks.Page{AfterCreated: p.AfterCreated, AfterID: p.AfterID, Limit: p.Limit})
	}, func(t *tasks.Task) creation { return creation{t.CreatedAt, t.ID} }, "task", func(b []byte, t *tasks.Task) []byte { return t.AppendJSON(b, "") })
}

func (s *Server) putTask(r *request) error {
	in, err := s.cfg.Tasks.Parse(r.root())
	if err != nil {
		return err
	}
	ctx, cancel := r.context()
	defer cancel()
	t, err := s.cfg.Tasks.Update(ctx, r.call(), r.named("id"), in)
	if err != nil {
		return err
	}
	r.out = t.AppendJSON(r.out[:0], "")
	return r.json(http.StatusOK)
}

func (s *Server) deleteTask(r *request) error {
	ctx, cancel := r.context()
	defer cancel()
	return r.deleted(s.cfg.Tasks.Delete(ctx, r.call(), r.named("id")))
}

// listRuns lists the runs of a task, newest first.
func (s *Server) listRuns(r *request) error {
	q := r.query("limit", "cursor")
	id := r.named("id")
	return listed(r, q, q.people("run"), "runs", func(ctx context.Context, call authz.Call, p people.Query) ([]tasks.Run, error) {
		return s.cfg.Tasks.Runs(ctx, call, id, tasks.Page{AfterCreated: p.AfterCreated, AfterID: p.AfterID, Limit: p.Limit})
	}, func(run *tasks.Run) creation { return creation{run.CreatedAt, run.ID} }, "run", func(b []byte, run *tasks.Run) []byte { return run.AppendJSON(b) })
}

// putSecret takes {value}, which is never shown again.
func (s *Server) putSecret(r *request) error {
	value, err := tasks.ParseSecret(r.root())
	if err != nil {
		return err
	}
	ctx, cancel := r.context()
	defer cancel()
	info, err := s.cfg.Tasks.PutSecret(ctx, r.call(), r.named("name"), value)
	if err != nil {
		return err
	}
	r.out = appendSecret(r.out[:0], &info)
	return r.json(http.StatusOK)
}

func (s *Server) listSecrets(r *request) error {
	ctx, cancel := r.context()
	defer cancel()
	list, err := s.cfg.Tasks.Secrets(ctx, r.call())
	if err != nil {
		return err
	}
	b := append(r.out[:0], `{"secrets":[`...)
	for i := range list {
		if i > 0 {
			b = append(b, ',')
		}
		b = appendSecret(b, &list[i])
	}
	r.out = append(b, `]}`...)
	return r.json(http.StatusOK)
}

func (s *Server) deleteSecret(r *request) error {
	ctx, cancel := r.context()
	defer cancel()
	return r.deleted(s.cfg.Tasks.DeleteSecret(ctx, r.call(), r.named("name")))
}

func appendSecret(b []byte, info *tasks.SecretInfo) []byte {
	b = strictjson.AppendString(append(b, `{"name":`...), info.Name)
	b = appendInstant(append(b, `,"updated_at":`...), info.UpdatedAt)
	return append(b, '}')
}
