package access_test

import (
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"

	"github.com/latchkey-dev/latchkey"
	"github.com/latchkey-dev/latchkey/access"
	"github.com/latchkey-dev/latchkey/authz"
	"github.com/latchkey-dev/latchkey/people"
)

// names are those of parties, as the rig calls them.
func names(list []access.Party) string {
	var all []string
	for _, p := range list {
		all = append(all, strings.ToLower(p.Name))
	}
	return strings.Join(all, " ")
}

func TestNotify_ChoosesByPolicy(t *testing.T) {
	w := newWorld(t)
	w.people("ann", "bob", "ben", "cid", "dan", "eve", "old")
	w.person(authz.AdminPerson, "ada", "abe")
	w.deactivate("old")
	first, second := w.group("first", "old", "ann", authz.Bot, "bob", "ben"), w.group("second", "ben", "cid", "dan")
	w.group("team", "ann", "dan", "eve")
	both := []string{first, second}
	for name, tt := range map[string]struct {
		groups []string
		policy access.NotificationPolicy
		count  int
		prefer bool
		want   []string // of one submission after the other
	}{
		"all, each once":                          {both, access.NotifyAll, 1, false, []string{"bob ben cid dan"}},
		"the first of the first group":            {both, access.FirstN, 1, false, []string{"bob", "bob"}},
		"the first three, of whom there are two":  {both, access.FirstN, 3, false, []string{"bob ben"}},
		"one after the other":                     {both, access.RoundRobin, 1, false, []string{"bob", "ben", "cid", "dan", "bob"}},
		"two after the other":                     {both, access.RoundRobin, 3, false, []string{"bob ben cid", "dan bob ben", "cid dan bob"}},
		"more than there are":                     {both, access.RoundRobin, 9, false, []string{"bob ben cid dan", "bob ben cid dan"}},
		"who shares a group with the requester":   {both, access.NotifyAll, 1, true, []string{"dan"}},
		"nobody shares one but an approver group": {[]string{first}, access.NotifyAll, 1, true, []string{"bob ben"}},
		"admins":                      {nil, access.NotifyAll, 1, false, []string{"ada abe"}},
		"admins, one after the other": {nil, access.RoundRobin, 1, false, []string{"ada", "abe", "ada"}},
		"of the first group that has somebody, too": {[]string{w.group("none"), second}, access.FirstN, 2, false, []string{"ben cid"}},
	} {
		t.Run(name, func(t *testing.T) {
			tm := w.template(func(t *access.Template) {
				t.ApproverGroups, t.NotificationPolicy, t.NotificationCount, t.PreferRequesterGroups = tt.groups, tt.policy, tt.count, tt.prefer
			})
			for i, want := range tt.want {
				r := w.submit("ann", ask(tm))
				if got := names(r.Notified); got != want {
					t.Errorf("request %d: told %q, want %q", i, got, want)
				}
				w.revoke("ann", r)
			}
		})
	}
	t.Run("at random", func(t *testing.T) {
		tm := w.template(func(t *access.Template) {
			t.ApproverGroups, t.NotificationPolicy, t.NotificationCount = both, access.RandomN, 2
		})
		counts := map[string]int{}
		for range 60 {
			r := w.submit("ann", ask(tm))
			if len(r.Notified) != 2 || r.Notified[0].ID == r.Notified[1].ID {
				t.Fatalf("told %v, want two", r.Notified)
			}
			for _, p := range r.Notified {
				counts[p.Name]++
			}
			w.revoke("ann", r)
		}
		if len(counts) != 4 { // by chance once in 10^18
			t.Errorf("of four only %v were ever told", counts)
		}
	})
}

// Over a thousand requests, while approvers come and go, those who were there all
// the time are told equally often.
func TestNotify_TakesTurnsWhoeverComesAndGoes(t *testing.T) {
	w := newWorld(t)
	w.people("ann")
	var all []string
	for i := range 12 {
		all = append(all, fmt.Sprintf("p%02d", i))
	}
	w.people(all...)
	first, second := w.group("first"), w.group("second")
	here := map[string][]people.Member{}
	for i, name := range all[:6] { // who stays
		g := []string{first, second}[i%2]
		here[g] = append(here[g], people.Member{Person: id(name), AddedAt: morning + latchkey.Instant(i)})
	}
	set := func(tx people.Writer) error {
		for g, members := range here {
			was, err := tx.Group(t.Context(), g)
			if err != nil {
				return err
			}
			is := was
			is.Members, is.Version = slices.Clone(members), tx.Seq()
			slices.SortFunc(is.Members, func(a, b people.Member) int { return int(a.AddedAt - b.AddedAt) })
			if err := tx.UpdateGroup(t.Context(), was, is); err != nil {
				return err
			}
		}
		return nil
	}
	w.write(set)
	tm := w.template(func(t *access.Template) {
		t.ApproverGroups, t.NotificationPolicy = []string{first, second}, access.RoundRobin
	})
	random := rand.New(rand.NewPCG(1, 2))
	counts := map[string]int{}
	turns := 1000
	if testing.Short() {
		turns = 100
	}
	for i := range turns {
		if i%3 == 0 { // somebody comes or goes
			name := all[6+random.IntN(6)]
			g := []string{first, second}[random.IntN(2)]
			if at := slices.IndexFunc(here[g], func(m people.Member) bool { return m.Person == id(name) }); at >= 0 {
				here[g] = slices.Delete(here[g], at, at+1)
			} else if !slices.ContainsFunc(slices.Concat(here[first], here[second]), func(m people.Member) bool { return m.Person == id(name) }) {
				here[g] = append(here[g], people.Member{Person: id(name), AddedAt: w.at + latchkey.Instant(i+1)})
			}
			w.write(set)
		}
		r := w.submit("ann", ask(tm))
		counts[names(r.Notified)]++
		w.revoke("ann", r)
	}
	least, most := turns, 0
	for _, name := range all[:6] {
		least, most = min(least, counts[name]), max(most, counts[name])
	}
	if most-least > 1 || least == 0 {
		t.Errorf("who was there all the time was told from %d to %d times: %v", least, most, counts)
	}
}

func TestEscalate_OnceAndToWhomItSays(t *testing.T) {
	w := newWorld(t)
	tm := w.ledger(func(t *access.Template) {
		t.EscalationAfter, t.EscalationGroup = 30, w.group("bosses", "cid", "ann", authz.Bot, "bob")
	})
	r, other := w.submit("ann", ask(tm)), w.submit("eve", ask(tm))
	w.approve("bob", other)
	w.at += 30*minute - 1
	if n, err := w.requests.Escalate(t.Context(), w.at); n != 0 || err != nil {
		t.Fatalf("too early: %d, %v", n, err)
	}
	if _, err := w.requests.Get(t.Context(), w.as("cid"), r.ID); latchkey.KindOf(err) != latchkey.NotFound {
		t.Errorf("it concerns the escalation group already: %v", err)
	}
	w.at++
	for i, want := range []int{1, 0} {
		if n, err := w.requests.Escalate(t.Context(), w.at+latchkey.Instant(i)); n != want || err != nil {
			t.Fatalf("escalated %d, want %d; %v", n, want, err)
		}
	}
	got := w.read(r)
	if names(got.Notified) != "bob ben cid" || got.EscalatedAt != w.at || got.Status != access.Pending {
		t.Errorf("%+v", got)
	}
	events := w.events(r)
	last := events[len(events)-1]
	if last["event"] != access.Escalated || len(last["notified_approvers"].([]any)) != 2 {
		t.Errorf("told %v", last)
	}
	if list, err := w.requests.Pending(t.Context(), w.as("cid"), access.Query{Limit: 10}); err != nil || len(list) != 1 {
		t.Errorf("it does not wait for the escalation group: %d, %v", len(list), err)
	}
	if got := w.approve("cid", r); got.DecidedBy != id("cid") {
		t.Errorf("%+v", got)
	}
}
