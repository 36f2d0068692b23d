package server

import (
	"context"
	"crypto/aes"
	"crypto/cipher"
	"crypto/hkdf"
	"crypto/sha256"
	"encoding/base64"
	"strconv"
	"time"

	"github.com/gofiber/fiber/v2"

	"github.com/latchkey-dev/latchkey"
	"github.com/latchkey-dev/latchkey/authz"
	"github.com/latchkey-dev/latchkey/internal/strictjson"
)

const (
	defaultPage = 50
	maxPage     = 1000
	// searchBudget is how long a page goes on looking; then it ends early, and
	// says where to go on.
	searchBudget = 5 * time.Second
)

type finder func(context.Context, *authz.Caller, *authz.Request, authz.Page, latchkey.Instant) (authz.Found, error)

func (s *Server) searchSubjects(r *request) error {
	return r.search("/subject", s.cfg.Searcher.Subjects)
}

func (s *Server) searchResources(r *request) error {
	return r.search("/resource", s.cfg.Searcher.Resources)
}

func (s *Server) searchActions(r *request) error {
	return r.search("/action", s.cfg.Searcher.Actions)
}

// search answers one page of an AuthZEN search for a member of the question.
func (r *request) search(member string, find finder) error {
	root := r.root()
	q := &r.question
	if err := (dialect{searched: member}).evaluation(q, root, strictjson.Value{}, ""); err != nil {
		return err
	}
	bound := r.boundToPage(member)
	page, err := r.page(root.Get("page"), bound)
	if err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(context.Background(), searchBudget)
	defer cancel()
	found, err := find(ctx, &r.caller, q, page, r.now)
	if err != nil {
		return err
	}
	b := append(r.out[:0], '{')
	if found.Next != "" || root.Get("page").Kind() != strictjson.Missing {
		b = append(b, `"page":{"next_token":"`...)
		if found.Next != "" {
			b = append(b, r.s.pageToken(found.Next, bound)...)
		}
		b = append(b, `","count":`...)
		b = strconv.AppendInt(b, int64(len(found.Names)), 10)
		if page.After == "" && found.Next == "" { // all of them are here
			b = append(b, `,"total":`...)
			b = strconv.AppendInt(b, int64(len(found.Names)), 10)
		}
		b = append(b, `},`...)
	}
	b = append(b, `"results":[`...)
	typ := q.Subject.Type
	if member == "/resource" {
		typ = q.Resource.Type
	}
	for i, name := range found.Names {
		if i > 0 {
			b = append(b, ',')
		}
		if member == "/action" {
			b = append(strictjson.AppendString(append(b, `{"name":`...), name), '}')
			continue
		}
		b = strictjson.AppendString(append(b, `{"type":`...), typ)
		b = append(strictjson.AppendString(append(b, `,"id":`...), name), '}')
	}
	r.out = append(b, `]}`...)
	return r.json(fiber.StatusOK)
}

// page reads the member page.
func (r *request) page(v strictjson.Value, bound []byte) (authz.Page, error) {
	page := authz.Page{Limit: defaultPage}
	if err := object(v, "/page"); err != nil && v.Kind() != strictjson.Missing {
		return page, err
	}
	if limit := v.Get("limit"); limit.Kind() != strictjson.Missing {
		n, err := strconv.Atoi(limit.Raw())
		if limit.Kind() != strictjson.Number || err != nil || n < 1 {
			return page, faultAt("/page/limit", "invalid_limit", "want an integer from 1")
		}
		page.Limit = min(n, maxPage) // a limit is what a page has at most
	}
	switch token := v.Get("token"); {
	case token.Kind() == strictjson.Missing:
	case token.Kind() != strictjson.String:
		return page, faultAt("/page/token", "wrong_type", "want a string, got "+token.Kind().String())
	case token.Text() != "":
		after, ok := r.s.openPageToken(token.Text(), bound)
		if !ok {
			return page, faultAt("/page/token", "invalid_token", "want the next_token of the page before, with everything else in the request as it was")
		}
		page.After = after
	}
	return page, nil
}

// boundToPage is what a token holds for: one caller, one customer, one
// question. How many results a page may have is not part of the question.
func (r *request) boundToPage(member string) []byte {
	who := r.caller.Handle.String()
	if r.caller.Key != nil {
		who = r.caller.Key.ID.String() // which a rotation does not change
	}
	var question []byte
	for _, name := range [...]string{"subject", "action", "resource", "context"} {
		if name == "action" && member == "/action" {
			continue // not read
		}
		question = append(r.root().Get(name).AppendCanonical(append(question, name...)), 0)
	}
	sum := fingerprint(member, r.caller.Customer.ID, who, string(question))
	return sum[:]
}

// pageSealer seals tokens under a key of their own: they are authentic, and
// tell nothing of the candidate that they stand at, which may be one that the
// caller was not shown.
func pageSealer(secret []byte) cipher.AEAD {
	key, err := hkdf.Key(sha256.New, secret, nil, "latchkey page token", 32)
	if err != nil {
		panic(err) // the length is right
	}
	block, err := aes.NewCipher(key)
	if err != nil {
		panic(err)
	}
	aead, err := cipher.NewGCMWithRandomNonce(block)
	if err != nil {
		panic(err)
	}
	return aead
}

func (s *Server) pageToken(after string, bound []byte) string {
	return base64.RawURLEncoding.EncodeToString(s.pages.Seal(nil, nil, []byte(after), bound))
}

func (s *Server) openPageToken(token string, bound []byte) (string, bool) {
	sealed, err := base64.RawURLEncoding.DecodeString(token)
	if err != nil {
		return "", false
	}
	after, err := s.pages.Open(nil, nil, sealed, bound)
	return string(after), err == nil
}
