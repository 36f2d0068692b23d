package policies_test

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"maps"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/open-policy-agent/opa/v1/ast"
	"github.com/open-policy-agent/opa/v1/rego"

	"github.com/latchkey-dev/latchkey"
	"github.com/latchkey-dev/latchkey/policies"
	"github.com/latchkey-dev/latchkey/scopes"
)

var (
	agreeSeed = flag.Uint64("agree.seed", 5539, "first number of the agreement test's seed")
	agreeKeys = flag.Int("agree.keys", 1200, "how many keys the agreement test makes")
)

const questionsPerKey = 100

// moment is about when everything here is asked.
const moment latchkey.Instant = 1_800_000_000_000_000

// key is one key in all its forms.
type key struct {
	id         string
	handles    []string
	expires    latchkey.Instant
	former     string // handle of a rotated secret, until formerEnds
	formerEnds latchkey.Instant
	scopes     map[string]any // decoded JSON
	lists      []string       // its names with an entry list
	set        *scopes.Set
	module     string
	permits    rego.PreparedEvalQuery
	term       *ast.Term // the scopes again
}

// forge holds what all keys share.
type forge struct {
	parser  *scopes.Parser
	library rego.PreparedEvalQuery
}

func newForge(t testing.TB) *forge {
	t.Helper()
	library, err := rego.New(
		rego.Query("data.latchkey.scopes.permits(input.scopes, input.request)"),
		rego.Compiler(compile(t, policies.Library())),
		rego.StrictBuiltinErrors(true),
	).PrepareForEval(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	return &forge{parser: scopes.NewParser(256), library: library}
}

var errScopes = errors.New("the parser refuses the scopes")

func (f *forge) key(ctx context.Context, d *dice) (*key, error) {
	k := &key{id: "9017501f-9fa4-4a88-b657-5bd49c1bb722", expires: latchkey.Never}
	for range d.n(3) {
		k.handles = append(k.handles, "lk1_live_"+d.text())
	}
	if d.chance(10) {
		k.id = d.text()
	}
	if d.chance(40) {
		k.expires = pick(d, []latchkey.Instant{moment, moment + 1, moment - 1, moment.Add(time.Hour), 0, 253402300799999999})
	}
	if d.chance(40) {
		k.former = "lk1_live_former" + d.text()
		k.formerEnds = pick(d, []latchkey.Instant{moment, moment + 1, moment - 1, moment.Add(time.Hour)})
	}
	text, err := plainJSON(d.scopes())
	if err != nil {
		return nil, err
	}
	if k.set, err = f.parser.Parse(text); err != nil {
		return nil, fmt.Errorf("%w: %s: %w", errScopes, text, err)
	}
	if err := json.Unmarshal([]byte(text), &k.scopes); err != nil {
		return nil, err
	}
	for name, v := range k.scopes["customer"].(map[string]any) {
		if list, ok := v.([]any); ok && len(list) > 0 && name != scopes.AccessKeys {
			k.lists = append(k.lists, name)
		}
	}
	slices.Sort(k.lists)
	value, err := ast.InterfaceToValue(k.scopes)
	if err != nil {
		return nil, err
	}
	k.term = ast.NewTerm(value)
	k.module = k.set.Rego(scopes.RegoKey{ID: k.id, Handles: k.handles, ExpiresAt: k.expires, Former: k.former, FormerEndsAt: k.formerEnds})
	k.permits, err = rego.New(
		rego.Query("data.latchkey.access_key.permits"),
		rego.Module("key.rego", k.module),
		rego.SetRegoVersion(ast.RegoV1),
		rego.Strict(true),
		rego.Capabilities(policies.Capabilities()),
		rego.StrictBuiltinErrors(d.chance(50)),
	).PrepareForEval(ctx)
	if err != nil {
		return nil, fmt.Errorf("prepare: %w\n%s", err, k.module)
	}
	return k, nil
}

func plainJSON(v any) (string, error) {
	var b bytes.Buffer
	e := json.NewEncoder(&b)
	e.SetEscapeHTML(false)
	err := e.Encode(v)
	return b.String(), err
}

// question is the request as a caller of the matcher reads it.
func question(request map[string]any) scopes.Question {
	resource := request["resource"].(map[string]any)
	q := scopes.Question{
		Type: resource["type"].(string), ID: resource["id"].(string),
		Action: request["action"].(map[string]any)["name"].(string),
	}
	properties, ok := resource["properties"].(map[string]any)
	if !ok {
		return q
	}
	q.Values = &scopes.Values{}
	if t, ok := properties["entity_type"].(string); ok {
		q.Values.EntityType = scopes.EntityType(t)
	}
	read := func(member string) (values []scopes.Value) {
		given, present := properties[member]
		list, ok := given.([]any)
		if present && !ok {
			q.Values.Malformed = true
		}
		for _, v := range list {
			text, ok := v.(string)
			values = append(values, scopes.Value{Text: text, NotText: !ok})
		}
		return values
	}
	q.Values.Added, q.Values.Removed = read("values"), read("removed_values")
	return q
}

// ask puts one question to all forms; the error says how they differ.
func (f *forge) ask(ctx context.Context, k *key, request map[string]any, now latchkey.Instant, note func(string)) (permitted bool, err error) {
	want := oraclePermits(k.scopes, request, note)
	if got := k.set.Permits(question(request)); got != want {
		return want, fmt.Errorf("the matcher says %v, the oracle %v", got, want)
	}
	value, err := ast.InterfaceToValue(request)
	if err != nil {
		return want, err
	}
	both := ast.NewObject([2]*ast.Term{ast.StringTerm("scopes"), k.term}, [2]*ast.Term{ast.StringTerm("request"), ast.NewTerm(value)})
	got, err := evaluate(ctx, f.library, both, now)
	if err != nil || got != want {
		return want, fmt.Errorf("the library says %v, %v, the oracle %v", got, err, want) //nolint:errorlint // often nil
	}
	wantKey := oracleKey(k, request, now, note) && want
	got, err = evaluate(ctx, k.permits, value, now)
	if err != nil || got != wantKey {
		return want, fmt.Errorf("the rendered module says %v, %v, the oracle %v", got, err, wantKey) //nolint:errorlint // often nil
	}
	return want, nil
}

var errNotBool = errors.New("not one boolean")

func evaluate(ctx context.Context, query rego.PreparedEvalQuery, input ast.Value, now latchkey.Instant) (bool, error) {
	results, err := query.Eval(ctx, rego.EvalParsedInput(input), rego.EvalTime(now.Time()))
	if err != nil {
		return false, err
	}
	if len(results) != 1 || len(results[0].Expressions) != 1 {
		return false, errNotBool
	}
	answer, ok := results[0].Expressions[0].Value.(bool)
	if !ok {
		return false, errNotBool
	}
	return answer, nil
}

func disagreement(k *key, request map[string]any, now latchkey.Instant, err error) string {
	scopesText, _ := plainJSON(k.scopes)
	requestText, _ := plainJSON(request)
	return fmt.Sprintf("%v\nscopes: %srequest: %snow: %d\n%s", err, scopesText, requestText, now, k.module)
}

func TestAgree_MatcherRegoAndOracleGiveOneAnswer(t *testing.T) {
	const workers = 2
	f := newForge(t)
	var (
		mu        sync.Mutex
		notes     = map[string]int{}
		asked     int
		permitted int
		wg        sync.WaitGroup
	)
	work := func(first int) {
		mine, myAsked, myPermitted := map[string]int{}, 0, 0
		note := func(what string) { mine[what]++ }
		for i := first; i < *agreeKeys && !t.Failed(); i += workers {
			d := seeded(*agreeSeed, uint64(i))
			k, err := f.key(t.Context(), d)
			if err != nil {
				t.Errorf("seed %d, key %d: %v", *agreeSeed, i, err)
				break
			}
			for n := range questionsPerKey {
				request, now := d.request(k), moment+latchkey.Instant(d.n(3)-1)
				ok, err := f.ask(t.Context(), k, request, now, note)
				if err != nil {
					t.Errorf("seed %d, key %d, question %d: %s", *agreeSeed, i, n, disagreement(k, request, now, err))
					break
				}
				myAsked++
				if ok {
					myPermitted++
				}
			}
		}
		mu.Lock()
		defer mu.Unlock()
		asked += myAsked
		permitted += myPermitted
		for what, n := range mine {
			notes[what] += n
		}
	}
	for first := range workers {
		wg.Go(func() { work(first) })
	}
	wg.Wait()
	if t.Failed() {
		return
	}
	if asked < 100_000 && *agreeKeys >= 1000 {
		t.Errorf("%d questions, want 100000", asked)
	}
	share := 100 * permitted / asked
	if share < 15 || share > 85 {
		t.Errorf("%d%% of the questions are permitted: the generator has lost its balance", share)
	}
	for _, what := range []string{
		"prefix selector", "exact selector", "implied read", "custom action", "star action", "no entry",
		"no values, no restriction", "values required", "unreadable values", "malformed value", "value canonicalised",
		"restriction admits string", "restriction admits ip", "restriction admits uint",
		"restriction blocks string", "restriction blocks ip", "restriction blocks uint",
		"handle", "former handle", "former handle ended", "expired", "not yet expired", "other subject", "other subject type",
	} {
		if notes[what] < *agreeKeys/5 {
			t.Errorf("%s: hit %d times in %d questions", what, notes[what], asked)
		}
	}
	var lines []string
	for _, what := range slices.Sorted(maps.Keys(notes)) {
		lines = append(lines, fmt.Sprintf("%s %d", what, notes[what]))
	}
	t.Logf("%d questions, %d%% permitted; %s", asked, share, strings.Join(lines, ", "))
}

func FuzzAgree(f *testing.F) {
	f.Add([]byte{}, "a*b")
	f.Add([]byte("sets, sets, sets"), "\ufeff")
	f.Add([]byte{0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10}, `") } granted if { true } #`)
	f.Add(bytes.Repeat([]byte{99, 0, 50}, 40), "::ffff:1.2.3.4/120")
	f.Add(bytes.Repeat([]byte{7, 77, 177, 27}, 40), "\U000e0001\u2028")
	forge := newForge(f)
	f.Fuzz(func(t *testing.T, data []byte, text string) {
		text = strings.ReplaceAll(strings.ToValidUTF8(text, "?"), "\x00", "?")
		if text == "" || len(text) > 1000 {
			t.Skip()
		}
		d := fuzzed(data, text)
		k, err := forge.key(t.Context(), d)
		if errors.Is(err, errScopes) {
			t.Skip()
		}
		if err != nil {
			t.Fatal(err)
		}
		for range 8 {
			request, now := d.request(k), moment+latchkey.Instant(d.n(3)-1)
			if _, err := forge.ask(t.Context(), k, request, now, func(string) {}); err != nil {
				t.Fatal(disagreement(k, request, now, err))
			}
		}
	})
}
