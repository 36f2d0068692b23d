package server_test

import (
	"fmt"
	"slices"
	"strings"
	"testing"

	"github.com/latchkey-dev/latchkey/authz"
	"github.com/latchkey-dev/latchkey/policies"
)

// jsonList writes a JSON array of strings that need no escapes.
func jsonList(values ...string) string {
	if len(values) == 0 {
		return "[]"
	}
	return `["` + strings.Join(values, `","`) + `"]`
}

// set makes a set of the default customer.
func (a *api) set(name, entityType string, values ...string) *reply {
	a.Helper()
	return a.do("POST", "/v1/sets", a.root, `{"name":"`+name+`","entity_type":"`+entityType+`","values":`+jsonList(values...)+`}`).is(201)
}

// holds compares the values of a set, as the API has them, with those wanted,
// and the snapshot that decides with both.
func (a *api) holds(name string, want ...string) {
	a.Helper()
	var got []string
	for path := "/v1/sets/" + name + "/values?limit=1000"; ; {
		r := a.do("GET", path, a.root, "").is(200)
		for _, v := range r.get("values").Array() {
			got = append(got, v.String())
		}
		next := r.text("next_cursor")
		if next == "" {
			break
		}
		path = "/v1/sets/" + name + "/values?limit=1000&cursor=" + next
	}
	slices.Sort(want)
	if !slices.Equal(got, want) {
		a.Fatalf("set %s holds %q, want %q", name, got, want)
	}
	a.decidesBy(name, want)
}

func (a *api) decidesBy(name string, want []string) {
	a.Helper()
	live := a.snapshot().Set(name)
	if live == nil || live.Len() != len(want) {
		a.Fatalf("the snapshot's %s: %+v, want %d values", name, live, len(want))
	}
	for _, v := range want {
		if member, ok := live.Contains(v); !member || !ok {
			a.Fatalf("the snapshot's %s lacks %q", name, v)
		}
	}
}

func (a *api) snapshot() *policies.Snapshot {
	return a.table.Customer(authz.DefaultCustomer).Policies.Snapshot()
}

func TestSets_LiveFromPOSTToDELETE(t *testing.T) {
	t.Parallel()
	a := start(t)
	made := a.do("POST", "/v1/sets", a.root, `{"name":"offices","entity_type":"ip","description":"where we are","values":["10.0.0.1","10.1.0.0/16","::ffff:192.0.2.1","10.0.0.1","2001:DB8::1"]}`).is(201)
	if made.header.Get("Location") != "/v1/sets/offices" || made.text("name") != "offices" || made.text("entity_type") != "ip" || made.text("description") != "where we are" ||
		made.get("total").Int() != 4 || made.get("version").Int() != 1 || made.text("values") != `["10.0.0.1","10.1.0.0/16","192.0.2.1","2001:db8::1"]` ||
		made.text("created_at") != "2026-11-21T22:10:00Z" {
		t.Errorf("made %s", made.body)
	}
	a.do("POST", "/v1/sets", a.root, `{"name":"offices","entity_type":"string"}`).refused(409, "set_exists")
	got := a.do("GET", "/v1/sets/offices", a.root, "").is(200)
	if got.body != made.body || got.header.Get("ETag") != made.header.Get("ETag") {
		t.Errorf("got %s, made %s", got.body, made.body)
	}
	patched := a.do("PATCH", "/v1/sets/offices", a.root, `{"add":["10.0.0.1","10.0.0.2"],"remove":["10.1.0.0/16","10.9.9.9"]}`).is(200)
	if patched.body != `{"added":1,"removed":1,"total":4}` {
		t.Errorf("patched %s", patched.body)
	}
	a.holds("offices", "10.0.0.1", "10.0.0.2", "192.0.2.1", "2001:db8::1")
	replaced := a.do("PUT", "/v1/sets/offices", a.root, `{"values":["10.0.0.0/8","2001:db8::1"]}`).is(200)
	if replaced.text("id") != made.text("id") || replaced.get("version").Int() != 3 || replaced.get("total").Int() != 2 || replaced.text("description") != "where we are" {
		t.Errorf("replaced %s", replaced.body)
	}
	a.holds("offices", "10.0.0.0/8", "2001:db8::1")

	// The path has the value in any spelling, percent-encoded once.
	for path, status := range map[string]int{
		"10.0.0.0%2F8": 200, "2001:DB8:0::1": 200, "2001%3adb8%3a%3a1": 200,
		"10.0.0.1":       404, // in a block, and not stored
		"10.0.0.0%252F8": 404, "10.0.0.0/8": 404, "10.0.0.1%2F8": 404, "nonsense": 404, "": 404,
	} {
		if r := a.do("GET", "/v1/sets/offices/values/"+path, a.root, ""); r.status != status {
			t.Errorf("GET value %q: %d, want %d: %s", path, r.status, status, r.body)
		}
	}
	if member, ok := a.snapshot().Set("offices").Contains("10.0.0.1"); !member || !ok {
		t.Error("a decision does not honour the block")
	}
	a.do("DELETE", "/v1/sets/offices/values/10.0.0.0%2f8", a.root, "").is(204)
	a.do("DELETE", "/v1/sets/offices/values/10.0.0.0%2f8", a.root, "").refused(404, "value_not_found")
	a.holds("offices", "2001:db8::1")
	a.do("DELETE", "/v1/sets/offices", a.root, "").is(204)
	a.do("GET", "/v1/sets/offices", a.root, "").refused(404, "set_not_found")
	if a.snapshot().Set("offices") != nil {
		t.Error("a deleted set still decides")
	}
	// The name is free for another set of another type.
	a.set("offices", "uint", "18446744073709551615", "0")
	a.holds("offices", "18446744073709551615", "0")
}

func TestSets_ValuesPage(t *testing.T) {
	t.Parallel()
	a := start(t)
	var all []string
	for i := range 25 {
		all = append(all, fmt.Sprintf("v%02d", i))
	}
	all = append(all, "V", "w", "v\u00e9", "v%", "v_", "\U0010ffff", "\ud7ff", "\ue000")
	a.set("s", "string", all...)
	slices.Sort(all)
	for _, tt := range []struct{ prefix, query string }{
		{"", ""}, {"v", "v"}, {"v1", "v1"}, {"V", "V"}, {"v%", "v%25"}, {"v_", "v_"}, {"x", "x"},
		{"\U0010ffff", "%F4%8F%BF%BF"}, {"\ud7ff", "%ED%9F%BF"}, {"v\u00e9", "v%C3%A9"},
	} {
		var want, got []string
		for _, v := range all {
			if strings.HasPrefix(v, tt.prefix) {
				want = append(want, v)
			}
		}
		cursor := ""
		for {
			r := a.do("GET", "/v1/sets/s/values?limit=4&prefix="+tt.query+cursor, a.root, "").is(200)
			page := r.get("values").Array()
			for _, v := range page {
				got = append(got, v.String())
			}
			if r.text("next_cursor") == "" {
				break
			}
			if len(page) != 4 {
				t.Fatalf("a page of %d with another after it", len(page))
			}
			cursor = "&cursor=" + r.text("next_cursor")
		}
		if !slices.Equal(got, want) {
			t.Errorf("prefix %q: %q, want %q", tt.prefix, got, want)
		}
	}
	for _, bad := range []string{"limit=0", "limit=1001", "limit=x", "cursor=x", "cursor=", "prefix=%ff", "prefix=%00", "q=1", "prefix=" + strings.Repeat("a", 1025)} {
		a.do("GET", "/v1/sets/s/values?"+bad, a.root, "").is(400)
	}
}
