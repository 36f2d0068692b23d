package server_test

import (
	"context"
	"crypto/sha256"
	"database/sql"
	"fmt"
	"maps"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"

	"github.com/tidwall/gjson"
	"pgregory.net/rapid"

	"github.com/latchkey-dev/latchkey/authz"
	"github.com/latchkey-dev/latchkey/policies"
	"github.com/latchkey-dev/latchkey/server"
)

// digits makes values one after the other.
func digits(from, n int) []string {
	list := make([]string, n)
	for i := range list {
		list[i] = fmt.Sprintf("user-%07d", from+i)
	}
	return list
}

func TestSets_EventsTellWhatHasChanged(t *testing.T) {
	t.Parallel()
	a := start(t)
	a.set("s", "ip", "10.0.0.1")
	id := a.do("GET", "/v1/sets/s", a.root, "").text("id")
	a.do("PATCH", "/v1/sets/s", a.root, `{"add":["10.0.0.1","10.0.0.2"],"remove":["10.9.9.9"]}`).is(200)
	a.do("PUT", "/v1/sets/s", a.root, `{"values":["10.0.0.2","10.0.0.3"]}`).is(200)
	a.do("PUT", "/v1/sets/s", a.root, `{"values":["10.0.0.2","10.0.0.3"],"description":"x"}`).is(200)
	a.do("DELETE", "/v1/sets/s/values/10.0.0.3", a.root, "").is(204)
	a.do("DELETE", "/v1/sets/s", a.root, "").is(204)
	many := digits(0, 33)
	a.set("many", "string", many...)
	a.do("PATCH", "/v1/sets/many", a.root, `{"remove":["nothing"]}`).is(200)
	a.do("PUT", "/v1/sets/many", a.root, `{"values":`+jsonList(many...)+`}`).is(200)
	a.do("DELETE", "/v1/sets/many", a.root, "").is(204)
	var got []string
	for _, e := range a.events("default") {
		if e.Get("resource.type").String() != "set" {
			continue
		}
		if name := e.Get("resource.name").String(); name == "s" && e.Get("resource.id").String() != id || e.Get("actor.type").String() != "root" || e.Get("outcome").String() != "success" {
			t.Errorf("event %s", e)
		}
		got = append(got, e.Get("action").String()+" "+e.Get("changes").Raw)
	}
	want := []string{
		`set.create {"entity_type":"ip","version":1,"added":1,"removed":0,"total":1,"added_values":["10.0.0.1"]}`,
		`set.patch {"entity_type":"ip","version":2,"added":1,"removed":0,"total":2,"added_values":["10.0.0.2"]}`,
		`set.replace {"entity_type":"ip","version":3,"added":1,"removed":1,"total":2,"added_values":["10.0.0.3"],"removed_values":["10.0.0.1"]}`,
		`set.replace {"entity_type":"ip","version":4,"added":0,"removed":0,"total":2}`,
		`set.patch {"entity_type":"ip","version":5,"added":0,"removed":1,"total":1,"removed_values":["10.0.0.3"]}`,
		`set.delete {"entity_type":"ip","version":5,"added":0,"removed":1,"total":0,"removed_values":["10.0.0.2"]}`,
		fmt.Sprintf(`set.create {"entity_type":"string","version":1,"added":33,"removed":0,"total":33,"added_sha256":"%x"}`, sha256.Sum256([]byte(jsonList(many...)))),
		`set.delete {"entity_type":"string","version":1,"added":0,"removed":33,"total":0}`,
	}
	if !slices.Equal(got, want) {
		t.Errorf("events\n%s\nwant\n%s", strings.Join(got, "\n"), strings.Join(want, "\n"))
	}
}

// What changes nothing is no change: no version, no event, no new snapshot.
func TestSets_NoChangeIsNoVersion(t *testing.T) {
	t.Parallel()
	a := start(t)
	a.set("s", "string", "a", "b")
	before, events, snapshot := a.do("GET", "/v1/sets/s", a.root, ""), len(a.events("default")), a.snapshot()
	for _, body := range []string{`{}`, `{"add":[],"remove":[]}`, `{"add":["a","a"]}`, `{"remove":["c"]}`, `{"add":["b"],"remove":["c"]}`} {
		r := a.do("PATCH", "/v1/sets/s", a.root, body).is(200)
		if r.body != `{"added":0,"removed":0,"total":2}` || r.header.Get("ETag") != before.header.Get("ETag") {
			t.Errorf("%s: %s", body, r.body)
		}
	}
	a.do("PUT", "/v1/sets/s", a.root, `{"values":["b","a","b"]}`).is(200)
	a.do("PUT", "/v1/sets/s", a.root, `{"values":["b","a"],"description":""}`).is(200)
	if after := a.do("GET", "/v1/sets/s", a.root, "").body; after != before.body || len(a.events("default")) != events || a.snapshot() != snapshot {
		t.Errorf("after %s, before %s", after, before.body)
	}
	// Restricted or not, there is nothing to hold to.
	k := a.create(`{"sets":[{"f":"*","p":4,"r":{"filter":"^z$"}}]}`).secret
	a.do("PUT", "/v1/sets/s", k, `{"values":["b","a"]}`).is(200)
	a.do("PATCH", "/v1/sets/s", k, `{}`).is(200)
}

func TestSets_HoldToConditions(t *testing.T) {
	t.Parallel()
	a := start(t)
	first := a.set("s", "string", "a").header.Get("ETag")
	second := a.do("PATCH", "/v1/sets/s", a.root, `{"add":["b"]}`, "If-Match", first).is(200).header.Get("ETag")
	if first == second || second == "" {
		t.Fatalf("tags %q and %q", first, second)
	}
	for _, tt := range []struct{ method, path, body string }{
		{"PATCH", "/v1/sets/s", `{"add":["c"]}`}, {"PATCH", "/v1/sets/s", `{"add":["b"]}`}, {"PUT", "/v1/sets/s", `{"values":["c"]}`},
		{"DELETE", "/v1/sets/s", ""}, {"DELETE", "/v1/sets/s/values/a", ""}, {"GET", "/v1/sets/s", ""},
	} {
		a.do(tt.method, tt.path, a.root, tt.body, "If-Match", first).refused(412, "precondition_failed")
	}
	a.do("POST", "/v1/sets", a.root, `{"name":"t","entity_type":"string"}`, "If-Match", "*").refused(412, "precondition_failed")
	a.do("POST", "/v1/sets", a.root, `{"name":"t","entity_type":"string"}`, "If-None-Match", "*").is(201)
	if r := a.do("GET", "/v1/sets/s", a.root, "", "If-None-Match", first+", "+second); r.status != 304 || r.body != "" || r.header.Get("ETag") != second {
		t.Errorf("%d %s", r.status, r.body)
	}
	a.do("GET", "/v1/sets/s", a.root, "", "If-None-Match", first, "If-Match", second).is(200)
	// One of two writers that have read the same wins.
	var wg sync.WaitGroup
	statuses := make([]int, 8)
	for i := range statuses {
		wg.Go(func() {
			statuses[i] = a.do("PATCH", "/v1/sets/s", a.root, fmt.Sprintf(`{"add":["w%d"]}`, i), "If-Match", second).status
		})
	}
	wg.Wait()
	slices.Sort(statuses)
	if !slices.Equal(statuses, []int{200, 412, 412, 412, 412, 412, 412, 412}) {
		t.Errorf("winners and losers: %v", statuses)
	}
	// A set made again under the old name has another tag.
	a.do("DELETE", "/v1/sets/s", a.root, "").is(204)
	if again := a.set("s", "string", "a").header.Get("ETag"); again == first {
		t.Error("another set has the tag of the old one")
	}
}

// The attack on availability: a set goes from under the policies that read it.
func TestSets_OneInUseIsNotDeleted(t *testing.T) {
	t.Parallel()
	a := start(t)
	a.set("s", "string", "a")
	live := &a.table.Customer(authz.DefaultCustomer).Policies
	edit := func(change func(*policies.Draft)) {
		_ = live.Update(func(in *policies.Snapshot) (*policies.Snapshot, error) {
			return in.Edit(in.Revision, in.ActivatedAt, change), nil
		})
	}
	edit(func(d *policies.Draft) {
		for _, name := range []string{"main", "backup"} {
			d.PutPolicy(&policies.Policy{Document: &policies.Document{Name: name}, Reads: policies.Reads{Sets: []string{"s"}}})
		}
	})
	r := a.do("DELETE", "/v1/sets/s", a.root, "").refused(409, "set_in_use")
	if !strings.Contains(r.text("detail"), "backup, main") {
		t.Errorf("the policies are not named: %s", r.body)
	}
	a.do("DELETE", "/v1/sets/s/values/a", a.root, "").is(204) // its values may go
	edit(func(d *policies.Draft) { d.DropPolicy("main"); d.DropPolicy("backup") })
	a.do("DELETE", "/v1/sets/s", a.root, "").is(204)
}

func TestSets_LimitsHold(t *testing.T) {
	t.Parallel()
	a := start(t, func(o *options) { o.sets = authz.SetsConfig{MaxSets: 2, MaxValues: 3} })
	a.set("a", "string", "1", "2", "3")
	a.set("b", "string")
	a.do("POST", "/v1/sets", a.root, `{"name":"c","entity_type":"string"}`).refused(409, "too_many_sets")
	a.do("DELETE", "/v1/sets/b", a.root, "").is(204)
	a.do("POST", "/v1/sets", a.root, `{"name":"b","entity_type":"string","values":["1","2","3","4"]}`).refused(409, "too_many_values")
	a.do("PATCH", "/v1/sets/a", a.root, `{"add":["4"]}`).refused(409, "too_many_values")
	a.do("PUT", "/v1/sets/a", a.root, `{"values":["1","2","3","4"]}`).refused(409, "too_many_values")
	a.do("PATCH", "/v1/sets/a", a.root, `{"add":["4"],"remove":["1"]}`).is(200)
	a.holds("a", "2", "3", "4")
}

// Patches that run at the same time are all applied, each once, and the
// snapshot ends where the record does.
func TestSets_FiftyPatchesAtOnce(t *testing.T) {
	t.Parallel()
	a := start(t)
	a.set("s", "string", digits(0, 50)...)
	var wg sync.WaitGroup
	var want []string
	for i := range 50 {
		add := digits(1000+10*i, 10)
		want = append(want, add...)
		wg.Go(func() {
			r := a.do("PATCH", "/v1/sets/s", a.root, `{"add":`+jsonList(append(digits(5000, 1), add...)...)+`,"remove":`+jsonList(digits(i, 1)...)+`}`).is(200)
			if n := r.get("added").Int(); n != 10 && n != 11 || r.get("removed").Int() != 1 {
				t.Errorf("%s", r.body)
			}
		})
	}
	wg.Wait()
	a.holds("s", append(want, digits(5000, 1)...)...)
	if r := a.do("GET", "/v1/sets/s", a.root, ""); r.get("version").Int() != 51 || r.get("total").Int() != 501 {
		t.Errorf("after fifty: %s", r.body[:300])
	}
}

// A restart decides by the same sets, of every type.
func TestSets_OutliveARestart(t *testing.T) {
	t.Parallel()
	a := start(t)
	a.set("ips", "ip", "10.0.0.1", "10.0.0.1/32", "10.0.0.0/8", "2001:db8::/32")
	a.set("uints", "uint", "0", "18446744073709551615", "10", "9")
	a.set("strings", "string", "", "\u00e9", "a", "B")
	a.set("empty", "string")
	a.set("gone", "string", "x")
	a.do("PATCH", "/v1/sets/strings", a.root, `{"add":["c"],"remove":["a"]}`).is(200)
	a.do("DELETE", "/v1/sets/gone", a.root, "").is(204)
	a.customer("acme")
	a.do("POST", "/v1/sets", a.root, `{"name":"theirs","entity_type":"string","values":["t"]}`, "X-Customer-ID", "acme").is(201)
	revision := a.snapshot().Revision
	a.stop()
	b := start(t, func(o *options) { o.dir = a.dir })
	if got := b.snapshot(); !slices.Equal(got.Sets(), []string{"empty", "ips", "strings", "uints"}) || got.Revision > revision {
		t.Errorf("loaded %v of revision %d, were %d", got.Sets(), got.Revision, revision)
	}
	b.holds("ips", "10.0.0.1", "10.0.0.1/32", "10.0.0.0/8", "2001:db8::/32")
	b.holds("uints", "0", "18446744073709551615", "10", "9")
	b.holds("strings", "", "\u00e9", "B", "c")
	b.holds("empty")
	if s := b.table.Customer("acme").Policies.Snapshot().Set("theirs"); s == nil || s.Len() != 1 {
		t.Error("another customer's set is not loaded")
	}
}

// A patch of one value writes one row of values, however large the set. (That
// the structure in memory is shared likewise is told in policies.)
func TestSets_APatchOfOneWritesOneRow(t *testing.T) {
	t.Parallel()
	a := start(t)
	if databaseIn(t, a.dir).URL != "" {
		t.Skip("by triggers as SQLite writes them")
	}
	a.set("s", "string", digits(0, 20_000)...)
	raw, err := sql.Open("sqlite", filepath.Join(a.dir, "latchkey.db"))
	if err != nil {
		t.Fatal(err)
	}
	defer raw.Close()
	exec := func(statement string) {
		t.Helper()
		if _, err := raw.ExecContext(context.Background(), statement); err != nil {
			t.Fatal(err)
		}
	}
	exec(`CREATE TABLE written (verb TEXT, value TEXT)`)
	exec(`CREATE TRIGGER w1 AFTER INSERT ON set_values BEGIN INSERT INTO written VALUES ('insert', NEW.value); END`)
	exec(`CREATE TRIGGER w2 AFTER UPDATE ON set_values BEGIN INSERT INTO written VALUES ('update', NEW.value); END`)
	exec(`CREATE TRIGGER w3 AFTER DELETE ON set_values BEGIN INSERT INTO written VALUES ('delete', OLD.value); END`)
	written := func() (list []string) {
		t.Helper()
		found, err := raw.QueryContext(context.Background(), `SELECT verb || ' ' || value FROM written ORDER BY rowid`)
		if err != nil {
			t.Fatal(err)
		}
		defer found.Close()
		for found.Next() {
			var line string
			if err := found.Scan(&line); err != nil {
				t.Fatal(err)
			}
			list = append(list, line)
		}
		if err := found.Err(); err != nil {
			t.Fatal(err)
		}
		exec(`DELETE FROM written`)
		return list
	}
	for _, tt := range []struct {
		method, path, body string
		want               []string
	}{
		{"PATCH", "/v1/sets/s", `{"add":["one"]}`, []string{"insert one"}},
		{"PATCH", "/v1/sets/s", `{"add":["one","user-0000007"]}`, nil},
		{"PATCH", "/v1/sets/s", `{"add":["two"],"remove":["one","none"]}`, []string{"delete one", "insert two"}},
		{"DELETE", "/v1/sets/s/values/two", "", []string{"delete two"}},
		{"PUT", "/v1/sets/s", `{"values":` + jsonList(append(digits(1, 19_999), "three")...) + `}`, []string{"delete user-0000000", "insert three"}},
	} {
		a.do(tt.method, tt.path, a.root, tt.body)
		if got := written(); !slices.Equal(got, tt.want) {
			t.Errorf("%s %s wrote %q, want %q", tt.method, tt.path, got, tt.want)
		}
	}
}

// Whatever is done to a set, in whatever order, it holds what a map would, in
// the record and in the snapshot alike.
func TestSets_AreLikeAMap(t *testing.T) {
	t.Parallel()
	a := start(t)
	n := 0
	rapid.Check(t, func(rt *rapid.T) {
		n++
		name, typ := fmt.Sprint("s", n), rapid.SampledFrom([]string{"string", "ip", "uint"}).Draw(rt, "type")
		pool := map[string][]string{
			"string": {"a", "b", "A", "ab", "", "\u00e9"},
			"uint":   {"0", "1", "10", "18446744073709551615"},
			"ip":     {"10.0.0.1", "10.0.0.1/32", "10.0.0.0/8", "::1", "::1/128", "0.0.0.0/0"},
		}[typ]
		some := func(label string) []string { return rapid.SliceOfN(rapid.SampledFrom(pool), 0, 6).Draw(rt, label) }
		model := map[string]bool{}
		values := some("values")
		for _, v := range values {
			model[v] = true
		}
		a.set(name, typ, values...)
		for range rapid.IntRange(1, 8).Draw(rt, "steps") {
			switch rapid.IntRange(0, 3).Draw(rt, "step") {
			case 0:
				values := some("replacement")
				a.do("PUT", "/v1/sets/"+name, a.root, `{"values":`+jsonList(values...)+`}`).is(200)
				model = map[string]bool{}
				for _, v := range values {
					model[v] = true
				}
			case 1, 2:
				add := some("add")
				remove := slices.DeleteFunc(some("remove"), func(v string) bool { return slices.Contains(add, v) })
				before := maps.Clone(model)
				added, removed := 0, 0
				for _, v := range add {
					model[v] = true
				}
				for _, v := range remove {
					delete(model, v)
				}
				for v := range model {
					if !before[v] {
						added++
					}
				}
				for v := range before {
					if !model[v] {
						removed++
					}
				}
				r := a.do("PATCH", "/v1/sets/"+name, a.root, `{"add":`+jsonList(add...)+`,"remove":`+jsonList(remove...)+`}`).is(200)
				if want := fmt.Sprintf(`{"added":%d,"removed":%d,"total":%d}`, added, removed, len(model)); r.body != want {
					rt.Fatalf("patched %s, want %s", r.body, want)
				}
			case 3:
				v := rapid.SampledFrom(pool).Draw(rt, "value")
				if v == "" {
					continue // not addressed by path
				}
				path := "/v1/sets/" + name + "/values/" + strings.ReplaceAll(v, "/", "%2F")
				status := 404
				if model[v] {
					status = 204
				}
				a.do("DELETE", path, a.root, "").is(status)
				delete(model, v)
			}
			a.holds(name, slices.Collect(maps.Keys(model))...)
		}
		got := a.do("GET", "/v1/sets/"+name, a.root, "").is(200)
		if int(got.get("total").Int()) != len(model) || len(got.get("values").Array()) != len(model) {
			rt.Fatalf("%s, want %v", got.body, model)
		}
		a.do("DELETE", "/v1/sets/"+name, a.root, "").is(204)
	})
}

// The same POST with the same Idempotency-Key makes one set.
func TestSets_CreateIsIdempotentWithAKey(t *testing.T) {
	t.Parallel()
	a := start(t)
	body := `{"name":"s","entity_type":"string","values":["a"]}`
	first := a.do("POST", "/v1/sets", a.root, body, "Idempotency-Key", "1").is(201)
	again := a.do("POST", "/v1/sets", a.root, body, "Idempotency-Key", "1").is(201)
	if again.body != first.body || again.header.Get("ETag") != first.header.Get("ETag") || again.header.Get("Idempotency-Replayed") != "true" {
		t.Errorf("%s, then %s", first.body, again.body)
	}
	a.do("POST", "/v1/sets", a.root, body).refused(409, "set_exists")
}

// Bodies up to 16 MiB are taken here and nowhere else.
func TestSets_BodyLimit(t *testing.T) {
	oneByOne(t)
	t.Parallel()
	a := start(t, func(o *options) { o.config = server.Config{} })
	a.set("s", "string")
	for path, status := range map[string]int{"/v1/sets": 413, "/v1/sets/s": 413, "/v1/sets/s/values": 413} {
		got, body := a.raw(fmt.Sprintf("POST %s HTTP/1.1\r\nHost: x\r\nContent-Length: %d\r\n\r\n", path, 16<<20+1))
		if got != status || gjson.Get(body, "code").String() != "body_too_large" {
			t.Errorf("%s: %d %s", path, got, body)
		}
	}
	got, _ := a.raw(fmt.Sprintf("POST /v1/setsx HTTP/1.1\r\nHost: x\r\nContent-Length: %d\r\n\r\n", 64<<10+1))
	if got != 413 {
		t.Errorf("beside: %d", got)
	}
	value := strings.Repeat("x", 1000)
	var b strings.Builder
	b.WriteString(`{"add":["` + value + `0"`)
	for i := 1; b.Len() < 16<<20-2000; i++ {
		fmt.Fprintf(&b, `,"%s%d"`, value, i)
	}
	b.WriteString(`]}`)
	a.do("PATCH", "/v1/sets/s", a.root, b.String()).is(200)
}

// Sets of a customer that has ended decide nothing and are not loaded.
func TestSets_EndWithTheirCustomer(t *testing.T) {
	t.Parallel()
	a := start(t)
	a.customer("acme")
	k := a.createFor("acme", everyScope).secret
	a.do("POST", "/v1/sets", k, `{"name":"s","entity_type":"string","values":["t"]}`).is(201)
	a.do("DELETE", "/v1/customers/acme", a.root, "").is(204)
	a.do("GET", "/v1/sets/s", k, "").is(401)
	a.do("GET", "/v1/sets/s", a.root, "", "X-Customer-ID", "acme").is(404)
	a.stop()
	b := start(t, func(o *options) { o.dir = a.dir })
	b.do("GET", "/v1/sets/s", b.root, "", "X-Customer-ID", "acme").is(404)
	if sets := b.table.Customer("acme").Policies.Snapshot().Sets(); len(sets) != 0 {
		t.Errorf("loaded %v", sets)
	}
}

// BenchmarkSets_PatchOneOfAMillion grows a set by patches to a million values,
// and then measures a patch of one value, from request to reply.
func BenchmarkSets_PatchOneOfAMillion(b *testing.B) {
	a := start(b)
	a.set("s", "string")
	for i := range 100 {
		a.do("PATCH", "/v1/sets/s", a.root, `{"add":`+jsonList(digits(i*10_000, 10_000)...)+`}`).is(200)
	}
	i := 0
	for b.Loop() {
		a.do("PATCH", "/v1/sets/s", a.root, fmt.Sprintf(`{"add":["x%d"]}`, i)).is(200)
		i++
	}
}

// A decision that follows the reply to a change sees it; a set that a policy
// reads stays.
func TestSets_PoliciesAskThem(t *testing.T) {
	t.Parallel()
	a := start(t)
	a.set("offices", "ip", "192.0.2.0/24")
	policy := `{"name":"main","language":"cel","rules":[{"label":"office","match":"in_set('offices', context.ip)","action":"allow"}],"default":{"action":"deny"}}`
	a.do("POST", "/v1/policies", a.root, strings.Replace(policy, "offices", "none", 1)).refused(400, "set_not_found")
	a.do("POST", "/v1/policies", a.root, policy).is(201)
	k := a.create(`{"decision":true}`).secret
	allowed := func(ip string) bool {
		t.Helper()
		return a.do("POST", "/decision/main", k, `{"subject":{"type":"service","id":"s"},"action":{"name":"open"},"resource":{"type":"door","id":"1"},"context":{"ip":"`+ip+`"}}`).is(200).get("decision").Bool()
	}
	for i := range 5 {
		ip := fmt.Sprintf("198.51.100.%d", i)
		if !allowed("192.0.2.7") || allowed(ip) {
			t.Fatal("before the change")
		}
		a.do("PATCH", "/v1/sets/offices", a.root, `{"add":["`+ip+`"]}`).is(200)
		if !allowed(ip) {
			t.Errorf("%s: the change was answered and is not in force", ip)
		}
		a.do("DELETE", "/v1/sets/offices/values/"+ip, a.root, "").is(204)
		if allowed(ip) {
			t.Errorf("%s: removed and still in force", ip)
		}
	}
	a.do("PUT", "/v1/sets/offices", a.root, `{"values":[]}`).is(200)
	if allowed("192.0.2.7") {
		t.Error("an emptied set admits")
	}
	a.do("DELETE", "/v1/sets/offices", a.root, "").refused(409, "set_in_use")
	a.do("DELETE", "/v1/policies/main", a.root, "").is(204)
	a.do("DELETE", "/v1/sets/offices", a.root, "").is(204)
}
