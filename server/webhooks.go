package server

import (
	"encoding/base64"
	"net/http"
	"strconv"
	"strings"
	"time"

	"github.com/latchkey-dev/latchkey/authz"
	"github.com/latchkey-dev/latchkey/deliveries"
	"github.com/latchkey-dev/latchkey/internal/strictjson"
)

// defaultGrace is how long a webhook's secrets of before sign beside a new one
// where nobody says otherwise: enough to bring the new one to a receiver.
const defaultGrace = 24 * time.Hour

// createWebhook takes {url or task_id, events, headers?, compat?, compat_secret?,
// description?}.
func (s *Server) createWebhook(r *request) error {
	return once(r, func(call authz.Call) (deliveries.Shown, error) {
		in, err := s.cfg.Webhooks.Parse(r.root())
		if err != nil {
			return deliveries.Shown{}, err
		}
		ctx, cancel := r.context()
		defer cancel()
		return s.cfg.Webhooks.Create(ctx, call, in)
	}, func(w deliveries.Shown) reply {
		return reply{Status: http.StatusCreated, Location: "/v1/webhooks/" + w.ID, Body: appendWebhook(nil, &w)}
	})
}

func (s *Server) listWebhooks(r *request) error {
	ctx, cancel := r.context()
	defer cancel()
	list, err := s.cfg.Webhooks.List(ctx, r.call())
	if err != nil {
		return err
	}
	b := append(r.out[:0], `{"webhooks":[`...)
	for i := range list {
		if i > 0 {
			b = append(b, ',')
		}
		b = appendWebhook(b, &list[i])
	}
	r.out = append(b, `]}`...)
	return r.json(http.StatusOK)
}

func (s *Server) getWebhook(r *request) error {
	ctx, cancel := r.context()
	defer cancel()
	w, err := s.cfg.Webhooks.Get(ctx, r.call(), r.param("id"))
	if err != nil {
		return err
	}
	r.out = appendWebhook(r.out[:0], &w)
	return r.json(http.StatusOK)
}

// putWebhook takes what createWebhook does; a header that is null keeps its value.
func (s *Server) putWebhook(r *request) error {
	return once(r, func(call authz.Call) (deliveries.Shown, error) {
		in, err := s.cfg.Webhooks.Parse(r.root())
		if err != nil {
			return deliveries.Shown{}, err
		}
		ctx, cancel := r.context()
		defer cancel()
		return s.cfg.Webhooks.Update(ctx, call, r.param("id"), in)
	}, webhookReply)
}

func webhookReply(w deliveries.Shown) reply {
	return reply{Status: http.StatusOK, Body: appendWebhook(nil, &w)}
}

func (s *Server) deleteWebhook(r *request) error {
	ctx, cancel := r.context()
	defer cancel()
	if err := s.cfg.Webhooks.Delete(ctx, r.call(), r.param("id")); err != nil {
		return err
	}
	r.c.Status(http.StatusNoContent)
	return nil
}

// rotateWebhook takes {grace?}: a duration like "24h", or seconds; absent is 24 h.
func (s *Server) rotateWebhook(r *request) error {
	return once(r, func(call authz.Call) (deliveries.Shown, error) {
		wait := defaultGrace
		if root := r.optionalRoot(); root.Kind() != strictjson.Missing {
			var grace strictjson.Value
			if err := members(root, "", map[string]*strictjson.Value{"grace": &grace}); err != nil {
				return deliveries.Shown{}, err
			}
			if grace.Kind() != strictjson.Missing {
				var err error
				if wait, err = duration(grace, "/grace", deliveries.MaxGrace); err != nil {
					return deliveries.Shown{}, err
				}
			}
		}
		ctx, cancel := r.context()
		defer cancel()
		return s.cfg.Webhooks.Rotate(ctx, call, r.param("id"), wait)
	}, webhookReply)
}

// listDeliveries lists those of a webhook, or those by e-mail, latest event first.
func (s *Server) listDeliveries(r *request) error {
	q := r.query("status", "limit", "cursor")
	dq := deliveries.Query{
		Target: r.param("id"),
		Status: deliveries.Status(q.oneOf("status", "", string(deliveries.Pending), string(deliveries.Delivered), string(deliveries.Dead), string(deliveries.Dropped))),
		Limit:  q.number("limit", 50, 1, 200),
	}
	if cursor, ok := q.values["cursor"]; ok {
		if dq.Before, dq.BeforeRecipient, ok = parseDeliveryCursor(cursor); !ok {
			q.fault("cursor", "invalid_cursor", "want a next_cursor of an earlier page")
		}
	}
	if err := q.err(); err != nil {
		return err
	}
	ctx, cancel := r.context()
	defer cancel()
	dq.Limit++ // one more tells whether there is a next page
	list, err := s.cfg.Webhooks.Deliveries(ctx, r.call(), dq)
	if err != nil {
		return err
	}
	return page(r, "deliveries", list, dq.Limit-1, appendDelivery, func(d *deliveries.Delivery) string {
		return "delivery:" + strconv.FormatInt(d.Seq, 10) + ":" + d.Recipient
	})
}

func (s *Server) replayDelivery(r *request) error {
	return once(r, func(call authz.Call) (deliveries.Delivery, error) {
		ctx, cancel := r.context()
		defer cancel()
		return s.cfg.Webhooks.Replay(ctx, call, r.param("id"), r.param("delivery"))
	}, func(d deliveries.Delivery) reply {
		return reply{Status: http.StatusAccepted, Body: appendDelivery(nil, &d)}
	})
}

func parseDeliveryCursor(text string) (seq int64, recipient string, ok bool) {
	b, err := base64.RawURLEncoding.DecodeString(text)
	place, ok := strings.CutPrefix(string(b), "delivery:")
	if err != nil || !ok {
		return 0, "", false
	}
	number, recipient, ok := strings.Cut(place, ":")
	if seq, err = strconv.ParseInt(number, 10, 64); err != nil || seq < 1 || !isText(recipient) {
		return 0, "", false
	}
	return seq, recipient, ok
}

// appendWebhook appends a webhook. The values of headers are null: they are never
// shown, and null is what keeps them when it is written back.
func appendWebhook(b []byte, w *deliveries.Shown) []byte {
	b = strictjson.AppendString(append(b, `{"id":`...), w.ID)
	b = appendOptional(append(b, `,"url":`...), w.URL)
	b = appendOptional(append(b, `,"task_id":`...), w.TaskID)
	b = strictjson.AppendStrings(append(b, `,"events":`...), w.Events)
	b = append(b, `,"headers":{`...)
	for i, name := range w.Headers {
		if i > 0 {
			b = append(b, ',')
		}
		b = append(strictjson.AppendString(b, name), `:null`...)
	}
	b = appendOptional(append(b, `},"compat":`...), w.Compat)
	b = strictjson.AppendString(append(b, `,"description":`...), w.Description)
	b = append(b, `,"secrets":[`...)
	for i, one := range w.Secrets {
		if i > 0 {
			b = append(b, ',')
		}
		b = appendInstant(append(b, `{"created_at":`...), one.CreatedAt)
		b = append(appendInstant(append(b, `,"ends_at":`...), one.EndsAt), '}')
	}
	b = append(b, ']')
	if w.Secret != "" {
		b = strictjson.AppendString(append(b, `,"secret":`...), w.Secret)
	}
	return append(appendInstant(append(b, `,"created_at":`...), w.CreatedAt), '}')
}

func appendDelivery(b []byte, d *deliveries.Delivery) []byte {
	b = strictjson.AppendString(append(b, `{"id":`...), d.ID)
	webhook := d.Target
	if d.Channel == deliveries.ByEmail {
		webhook = ""
	}
	b = appendOptional(append(b, `,"webhook_id":`...), webhook)
	b = appendOptional(append(b, `,"recipient_id":`...), d.Recipient)
	b = strictjson.AppendString(append(b, `,"event":`...), d.Event)
	b = appendInstant(append(b, `,"event_at":`...), d.EventAt)
	b = strictjson.AppendString(append(b, `,"request_id":`...), d.RequestID)
	b = strictjson.AppendString(append(b, `,"status":`...), string(d.Status))
	b = strconv.AppendInt(append(b, `,"attempts":`...), int64(d.Attempts), 10)
	b = append(b, `,"next_attempt_at":`...)
	if d.Status == deliveries.Pending {
		b = appendInstant(b, d.NextAt)
	} else {
		b = append(b, `null`...)
	}
	b = append(b, `,"last_attempt":`...)
	if d.AttemptedAt == 0 {
		b = append(b, `null`...)
	} else {
		b = appendInstant(append(b, `{"at":`...), d.AttemptedAt)
		b = appendOptional(append(b, `,"result":`...), d.Outcome.Result)
		b = append(b, `,"reply_status":`...)
		if d.Outcome.ReplyStatus == 0 {
			b = append(b, `null`...)
		} else {
			b = strconv.AppendInt(b, int64(d.Outcome.ReplyStatus), 10)
		}
		b = append(appendOptional(append(b, `,"reply_head":`...), d.Outcome.ReplyHead), '}')
	}
	return append(appendInstant(append(b, `,"created_at":`...), d.CreatedAt), '}')
}
