package policies

import (
	"net/netip"
	"regexp/syntax"
	"strconv"
	"strings"
	"sync"

	"github.com/hashicorp/golang-lru/v2/simplelru"
	"github.com/open-policy-agent/opa/v1/ast"
	"github.com/open-policy-agent/opa/v1/topdown"
	"github.com/open-policy-agent/opa/v1/topdown/cache"
	"github.com/open-policy-agent/opa/v1/types"
)

// A deadline stops OPA between expressions, and nothing within one. Three
// things are therefore bounded here:
//
//   - Built-in functions whose time or memory is not about that of their
//     arguments are called through a guard that looks at the arguments first,
//     and at the size of what they made.
//   - Values that share their parts: sixty lines of x1 := [x0, x0] make a value
//     of few nodes and 2^60 leaves, which no comparison gets to the end of.
//     Where a composite value is put together, or kept once for each solution
//     of a body, its parts are weighed, each time in full.
//   - Steps, by [turn.Cancelled].
//
// Both are done to the compiled module: the calls get another operator, and
// the bodies an expression that weighs.

// setMember is the built-in function that the library's in_set stands on.
var setMember = &ast.Builtin{
	Name: "latchkey_in_set",
	Decl: types.NewFunction(types.Args(types.S, types.A), types.B),
}

var setMemberTerm = ast.VarTerm(setMember.Name)

// Bounds of one call of a built-in function.
const (
	maxDigits   = 1024     // of a number's text, where it is computed with
	maxWork     = 10 << 20 // byte by byte steps of one call
	maxProgram  = 50_000   // instructions of a regular expression
	maxPattern  = 4096     // bytes of a regular expression or a glob
	maxExpand   = 12       // bits of net.cidr_expand
	maxPairs    = 100_000  // pairs of net.cidr_contains_matches
	maxNetworks = 10_000   // of net.cidr_merge
	nodeWeight  = 64       // of a value beside its text
)

// sane reports whether computing with a number is cheap: 1e999999999 is a few
// bytes of text and gigabytes as an integer.
func sane(n ast.Number) bool {
	if len(n) > maxDigits {
		return false
	}
	for i := range len(n) {
		if n[i]|0x20 == 'e' {
			exponent, err := strconv.Atoi(string(n[i+1:]))
			return err == nil && exponent <= 400 && exponent >= -400
		}
	}
	return true
}

// weigh takes the weight of a value, as the tree it is, from left; ok is false
// when there is not enough left, which is found out without seeing it all.
func weigh(v ast.Value, left int) (_ int, ok bool) {
	if left -= nodeWeight; left < 0 {
		return left, false
	}
	each := func(t *ast.Term) bool { // until
		left, ok = weigh(t.Value, left)
		return !ok
	}
	ok = true
	switch v := v.(type) {
	case ast.String:
		left -= len(v)
	case ast.Number:
		if !sane(v) {
			return -1, false
		}
		left -= len(v)
	case *ast.Array:
		v.Until(each)
	case ast.Set:
		v.Until(each)
	case ast.Object:
		v.Until(func(k, v *ast.Term) bool { return each(k) || each(v) })
	}
	return left, ok && left >= 0
}

// spend takes the weight of values from the evaluation's budget.
func (t *turn) spend(values ...*ast.Term) error {
	for _, v := range values {
		left, ok := weigh(v.Value, t.weight)
		if t.weight = left; !ok {
			return halt(TooCostly, "values of more than "+strconv.Itoa(regoWeight)+" bytes")
		}
	}
	return nil
}

// halt ends an evaluation: OPA would go on after another error.
func halt(why Failure, detail string) error {
	return topdown.Halt{Err: &EvaluationError{Failure: why, Detail: detail}}
}

// guarded is how a built-in function is called here.
type guarded struct {
	// within reports whether a call with these arguments is bounded; weight is
	// what is left.
	within func(args []*ast.Term, weight int) bool
	// grows says that the result may be larger than the arguments, and counts.
	grows bool
	// instead is called for OPA's function.
	instead topdown.BuiltinFunc
	// caches keeps what it compiles.
	caches compiledKind
	// keeps says that OPA keeps texts of the arguments for longer than the
	// evaluation, as the names of time zones.
	keeps bool
}

func textOf(t *ast.Term) string {
	s, _ := t.Value.(ast.String)
	return string(s)
}

func sizeOf(t *ast.Term) int {
	switch v := t.Value.(type) {
	case *ast.Array:
		return v.Len()
	case ast.Set:
		return v.Len()
	case ast.Object:
		return v.Len()
	}
	return 1
}

func numbers(args []*ast.Term, _ int) bool {
	for _, a := range args {
		if n, ok := a.Value.(ast.Number); ok && !sane(n) {
			return false
		}
	}
	return true
}

// always admits: the result is what counts.
func always([]*ast.Term, int) bool { return true }

// matched admits where the lengths of two texts multiplied are not too much.
func matched(args []*ast.Term, _ int) bool {
	return len(textOf(args[0]))*len(textOf(args[1])) <= 10*maxWork
}

// short admits a text of which each byte may become a value.
func short(args []*ast.Term, weight int) bool {
	return len(textOf(args[0]))*nodeWeight <= weight
}

var guards = map[string]guarded{
	"abs": {within: numbers}, "plus": {within: numbers}, "minus": {within: numbers}, "mul": {within: numbers},
	"div": {within: numbers}, "rem": {within: numbers}, "round": {within: numbers}, "ceil": {within: numbers},
	"floor": {within: numbers}, "bits.and": {within: numbers}, "bits.or": {within: numbers}, "bits.xor": {within: numbers},
	"bits.negate": {within: numbers}, "bits.rsh": {within: numbers}, "format_int": {within: numbers},
	"sum": {within: digits}, "product": {within: digits},
	"or": {within: always, grows: true}, "array.concat": {within: always, grows: true},
	"object.union": {within: always, grows: true},
	"object.subset": {within: func(args []*ast.Term, _ int) bool {
		a, _ := weigh(args[0].Value, regoWeight)
		b, _ := weigh(args[1].Value, regoWeight)
		return a >= 0 && b >= 0 && ((regoWeight-a)/nodeWeight)*((regoWeight-b)/nodeWeight) <= maxWork
	}},
	"concat": {within: func(args []*ast.Term, weight int) bool {
		return sizeOf(args[1])*len(textOf(args[0])) <= weight
	}, grows: true},
	"split": {within: func(args []*ast.Term, weight int) bool {
		return strings.Count(textOf(args[0]), textOf(args[1]))*nodeWeight <= weight
	}, grows: true},
	"indexof": {within: matched},
	"indexof_n": {within: func(args []*ast.Term, weight int) bool {
		return short(args, weight) && matched(args, weight)
	}, grows: true},
	"trim": {within: matched}, "trim_left": {within: matched}, "trim_right": {within: matched},
	"replace": {within: func(args []*ast.Term, weight int) bool {
		return strings.Count(textOf(args[0]), textOf(args[1]))*len(textOf(args[2])) <= weight
	}, grows: true},
	"strings.replace_n":        {within: replacements, grows: true},
	"sprintf":                  {within: formatted, grows: true},
	"internal.template_string": {within: weighed, grows: true},
	"json.marshal":             {within: weighed, grows: true},
	"json.unmarshal":           {within: short, grows: true},
	"urlquery.decode_object":   {within: short, grows: true},
	"urlquery.encode_object":   {within: always, grows: true},
	"urlquery.encode":          {within: always, grows: true},
	"base64.encode":            {within: always, grows: true}, "base64url.encode": {within: always, grows: true},
	"base64url.encode_no_pad": {within: always, grows: true}, "hex.encode": {within: always, grows: true},
	"upper": {within: always, grows: true}, "lower": {within: always, grows: true},
	"glob.quote_meta": {within: always, grows: true},
	"to_number":       {within: always, grows: true},
	"units.parse":     {within: always, grows: true}, "units.parse_bytes": {within: always, grows: true},
	"uri.parse":       {within: always, grows: true},
	"regex.match":     {within: matching(0, 1), caches: regexes},
	"regex.split":     {within: each(matching(0, 1), 1), caches: regexes, grows: true},
	"regex.find_n":    {within: each(matching(0, 1), 1), caches: regexes, grows: true},
	"regex.is_valid":  {within: func(args []*ast.Term, _ int) bool { return len(textOf(args[0])) <= maxPattern }},
	"regex.replace":   {within: replacing, caches: regexes, grows: true},
	"glob.match":      {within: globbing, caches: globs},
	"graph.reachable": {within: always, instead: reachable},
	"net.cidr_expand": {within: expanding, grows: true},
	"net.cidr_merge":  {within: func(args []*ast.Term, _ int) bool { return sizeOf(args[0]) <= maxNetworks }},
	"regex.find_all_string_submatch_n": {within: func(args []*ast.Term, weight int) bool {
		groups := 1 + strings.Count(textOf(args[0]), "(")
		return matching(0, 1)(args, weight) && (1+len(textOf(args[1])))*groups*nodeWeight <= weight
	}, caches: regexes, grows: true},
	"net.cidr_contains_matches": {within: func(args []*ast.Term, _ int) bool {
		return sizeOf(args[0])*sizeOf(args[1]) <= maxPairs
	}, grows: true},
	"time.clock": {within: always, keeps: true}, "time.date": {within: always, keeps: true},
	"time.weekday": {within: always, keeps: true}, "time.diff": {within: always, keeps: true},
	"time.format": {within: always, keeps: true, grows: true},
}

// digits admits numbers whose texts together are not too long to multiply.
func digits(args []*ast.Term, _ int) bool {
	total := 0
	long := func(t *ast.Term) bool {
		n, _ := t.Value.(ast.Number)
		total += len(n)
		return !sane(n)
	}
	switch v := args[0].Value.(type) {
	case *ast.Array:
		return !v.Until(long) && (v.Len() == 0 || total <= 64*maxDigits)
	case ast.Set:
		return !v.Until(long) && (v.Len() == 0 || total <= 64*maxDigits)
	}
	return true
}

// weighed admits what is a tree of a size that could have been made: the text
// of a shared value is that of the tree.
func weighed(args []*ast.Term, _ int) bool {
	left := regoWeight
	for _, a := range args {
		var ok bool
		if left, ok = weigh(a.Value, left); !ok {
			return false
		}
	}
	return true
}

func replacements(args []*ast.Term, weight int) bool {
	patterns, ok := args[0].Value.(ast.Object)
	if !ok {
		return true
	}
	text := textOf(args[1])
	if patterns.Len()*len(text) > 10*maxWork {
		return false
	}
	longer := 0
	patterns.Foreach(func(old, next *ast.Term) {
		longer += strings.Count(text, textOf(old)) * len(textOf(next))
	})
	return longer <= weight
}

// formatted admits a format without * whose widths are short, and whose text is
// bounded: a verb writes an argument at most ten times as long as it is (%q of
// an astral character), and a number at most as long as its text and exponent.
func formatted(args []*ast.Term, weight int) bool {
	format := textOf(args[0])
	verbs := 0
	for i := 0; i < len(format); i++ {
		if format[i] != '%' {
			continue
		}
		verbs++
		digits := 0
		for i++; i < len(format) && strings.IndexByte("+-# 0123456789.[]*", format[i]) >= 0; i++ {
			switch c := format[i]; {
			case c == '*':
				return false
			case '0' <= c && c <= '9':
				if digits++; digits > 3 { // %0999d, %.3f
					return false
				}
			default:
				digits = 0
			}
		}
	}
	longest := 0
	list, ok := args[1].Value.(*ast.Array)
	if !ok {
		return true
	}
	for i := range list.Len() {
		v := list.Elem(i).Value
		if n, ok := v.(ast.Number); ok && !sane(n) {
			return false
		}
		left, ok := weigh(v, regoWeight)
		if !ok {
			return false
		}
		longest = max(longest, regoWeight-left)
	}
	return verbs*(10*longest+2048) <= max(weight, 1<<20)
}

func expanding(args []*ast.Term, _ int) bool {
	block, err := netip.ParsePrefix(textOf(args[0]))
	return err != nil || block.Addr().BitLen()-block.Bits() <= maxExpand
}

func globbing(args []*ast.Term, _ int) bool {
	return len(textOf(args[0])) <= maxPattern && len(textOf(args[0]))*len(textOf(args[2])) <= 10*maxWork
}

// matching admits a regular expression and a text where matching takes few
// steps: Go's matcher takes one a character and instruction at most.
func matching(pattern, text int) func([]*ast.Term, int) bool {
	return func(args []*ast.Term, _ int) bool {
		p := textOf(args[pattern])
		if len(p) > maxPattern {
			return false
		}
		size := instructions(p)
		return size <= maxProgram && size*len(textOf(args[text])) <= maxWork
	}
}

// each admits a text of which each byte may become a value.
func each(within func([]*ast.Term, int) bool, text int) func([]*ast.Term, int) bool {
	return func(args []*ast.Term, weight int) bool {
		return within(args, weight) && len(textOf(args[text]))*nodeWeight <= weight
	}
}

// replacing is for regex.replace(text, pattern, value): a value may name a
// group at every second byte, each at most as long as what matched.
func replacing(args []*ast.Term, weight int) bool {
	return matching(1, 0)(args, weight) &&
		(1+len(textOf(args[0])))*(nodeWeight+2*len(textOf(args[2]))) <= weight
}

// instructions estimates the length of a regular expression's program from
// above; 0 for one that does not parse.
func instructions(pattern string) int {
	if !strings.Contains(pattern, "{") {
		return 2 * len(pattern)
	}
	if n, ok := programs.get(compiledKey{sizes, 0, pattern}); ok {
		return n.(int)
	}
	re, err := syntax.Parse(pattern, syntax.Perl)
	if err != nil {
		return 0
	}
	n := programSize(re)
	programs.put(compiledKey{sizes, 0, strings.Clone(pattern)}, n, len(pattern)+nodeWeight)
	return n
}

func programSize(re *syntax.Regexp) int {
	n := 2 + len(re.Rune)
	for _, sub := range re.Sub {
		n = min(n+programSize(sub), 1<<30)
	}
	if re.Op == syntax.OpRepeat {
		n = min(n*(1+max(re.Min, re.Max)), 1<<30)
	}
	return n
}

// compiledKind is what a compiled pattern is.
type compiledKind uint8

const (
	nothing compiledKind = iota
	regexes
	globs
	sizes // of regexes' programs
)

// compiledKey names a pattern. OPA's own key of a glob is the pattern with its
// delimiters appended, which says too little: the length of the pattern says
// where they begin.
type compiledKey struct {
	kind   compiledKind
	length int
	text   string
}

// compiled keeps compiled patterns of all policies, those used last, within a
// bound of their memory.
type compiled struct {
	mu     sync.Mutex
	kept   *simplelru.LRU[compiledKey, compiledValue]
	weight int
}

type compiledValue struct {
	value  any
	weight int
}

const maxCompiled = 32 << 20

var programs = newCompiled()

func newCompiled() *compiled {
	c := &compiled{}
	c.kept, _ = simplelru.NewLRU(8192, func(_ compiledKey, v compiledValue) { c.weight -= v.weight })
	return c
}

func (c *compiled) get(k compiledKey) (any, bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	v, ok := c.kept.Get(k)
	return v.value, ok
}

func (c *compiled) put(k compiledKey, v any, weight int) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.kept.Contains(k) || weight > maxCompiled/16 {
		return
	}
	c.weight += weight
	c.kept.Add(k, compiledValue{v, weight})
	for c.weight > maxCompiled {
		c.kept.RemoveOldest()
	}
}

// compiledCache is the cache of one call, in the form OPA knows.
type compiledCache struct {
	kind   compiledKind
	length int
}

func (c compiledCache) Get(key ast.Value) (any, bool) {
	s, _ := key.(ast.String)
	return programs.get(compiledKey{c.kind, c.length, string(s)})
}

func (c compiledCache) Insert(key ast.Value, value any) int {
	s, _ := key.(ast.String)
	weight := 256 + 256*len(s)
	if c.kind == regexes {
		weight = 256 + 128*instructions(string(s))
	}
	programs.put(compiledKey{c.kind, c.length, strings.Clone(string(s))}, value, weight)
	return 0
}

func (compiledCache) Delete(ast.Value) {}

func (compiledCache) GetCache(string) cache.InterQueryValueCacheBucket { return nil }

func (compiledCache) UpdateConfig(*cache.Config) {}

// function makes the guarded form of a built-in function.
func (g guarded) function(name string) topdown.BuiltinFunc {
	call := g.instead
	if call == nil {
		call = topdown.GetBuiltin(name)
	}
	return func(b topdown.BuiltinContext, args []*ast.Term, iter func(*ast.Term) error) error {
		t := b.Cancel.(*turn)
		if !g.within(args, t.weight) {
			return halt(TooCostly, name+" of such arguments")
		}
		if g.caches != nothing {
			b.InterQueryBuiltinValueCache = compiledCache{g.caches, len(textOf(args[0]))}
			if name == "regex.replace" {
				b.InterQueryBuiltinValueCache = compiledCache{g.caches, len(textOf(args[1]))}
			}
		}
		if g.keeps {
			args = cloned(args)
		}
		if !g.grows {
			return call(b, args, iter)
		}
		return call(b, args, func(result *ast.Term) error {
			if err := t.spend(result); err != nil {
				return err
			}
			return iter(result)
		})
	}
}

// cloned copies texts, which lie in the request's buffer.
func cloned(args []*ast.Term) []*ast.Term {
	copied := make([]*ast.Term, len(args))
	for i, a := range args {
		copied[i] = a
		list, ok := a.Value.(*ast.Array)
		if !ok {
			continue
		}
		terms := make([]*ast.Term, list.Len())
		for i := range terms {
			terms[i] = list.Elem(i)
			if s, ok := terms[i].Value.(ast.String); ok {
				terms[i] = ast.StringTerm(strings.Clone(string(s)))
			}
		}
		copied[i] = ast.ArrayTerm(terms...)
	}
	return copied
}

// reachable is graph.reachable in linear time: OPA's looks at a vertex once for
// each path to it.
func reachable(_ topdown.BuiltinContext, args []*ast.Term, iter func(*ast.Term) error) error {
	graph, ok := args[0].Value.(ast.Object)
	if !ok {
		return halt(Failed, "graph.reachable failed")
	}
	var queue []*ast.Term
	found := ast.NewSet()
	visit := func(list ast.Value) bool {
		add := func(t *ast.Term) {
			if !found.Contains(t) && graph.Get(t) != nil {
				found.Add(t)
				queue = append(queue, t)
			}
		}
		switch list := list.(type) {
		case *ast.Array:
			list.Foreach(add)
		case ast.Set:
			list.Foreach(add)
		default:
			return false
		}
		return true
	}
	if !visit(args[1].Value) {
		return halt(Failed, "graph.reachable failed")
	}
	for len(queue) > 0 {
		vertex := queue[0]
		queue = queue[1:]
		visit(graph.Get(vertex).Value) // what is no list has no edges
	}
	return iter(ast.NewTerm(found))
}

// member answers latchkey_in_set from the sets of the evaluation.
func member(b topdown.BuiltinContext, args []*ast.Term, iter func(*ast.Term) error) error {
	name := textOf(args[0])
	set := b.Cancel.(*turn).snapshot.Set(name)
	if set == nil {
		return halt(UnknownSet, strings.Clone(name))
	}
	var found, ok bool
	switch v := args[1].Value.(type) {
	case ast.String:
		found, ok = set.Contains(string(v))
	case ast.Number:
		if n, is := v.Int64(); is {
			found, ok = set.ContainsInt(n)
		} else if sane(v) {
			found, ok = set.Contains(string(v)) // a uint beyond int64
		}
	}
	if !ok {
		return halt(Failed, "in_set: not a value of the set "+name)
	}
	return iter(ast.InternedTerm(found))
}

// guard changes the calls and bodies of compiled modules, and returns the
// built-in functions that they then use.
func guard(c *ast.Compiler) map[string]*topdown.Builtin {
	g := &guarding{compiler: c, builtins: map[string]*topdown.Builtin{setMember.Name: {Decl: setMember, Func: member}}}
	for _, m := range c.Modules {
		for _, rule := range m.Rules {
			for ; rule != nil; rule = rule.Else {
				g.rule(rule)
			}
		}
	}
	return g.builtins
}

type guarding struct {
	compiler *ast.Compiler
	builtins map[string]*topdown.Builtin
}

func (g *guarding) rule(r *ast.Rule) {
	r.Body = g.body(r.Body)
	if r.Default {
		return
	}
	kept := []*ast.Term{}
	if r.Head.DocKind() != ast.CompleteDoc || r.Head.HasDynamicRef() { // once for each solution
		for _, t := range append(r.Head.Ref()[1:], r.Head.Key, r.Head.Value) {
			if t != nil {
				kept = append(kept, t)
			}
		}
	} else if r.Head.Value != nil {
		kept = composites(r.Head.Value)
	}
	r.Body = append(r.Body, g.weighing(kept, r.Location)...)
}

// body guards the expressions of a body and of what stands in them.
func (g *guarding) body(body ast.Body) ast.Body {
	var next ast.Body
	for _, e := range body {
		g.within(e)
		var before, after []*ast.Term
		switch terms := e.Terms.(type) {
		case []*ast.Term:
			name := e.Operator().String()
			inputs := terms[1:]
			if arity := g.compiler.GetArity(e.Operator()); arity >= 0 && arity < len(inputs) {
				inputs = inputs[:arity] // what follows takes the result
			}
			if e.Operator().Equal(inSet) {
				e.SetOperator(ast.NewTerm(ast.Ref{setMemberTerm}))
			} else if guard, ok := guards[name]; ok {
				e.SetOperator(g.operator(name, guard))
			}
			for _, t := range inputs {
				if e.IsEquality() && !e.Negated {
					after = append(after, composites(t)...)
				} else {
					before = append(before, composites(t)...)
				}
			}
		case *ast.Term:
			before = composites(terms)
		}
		for _, w := range e.With {
			before = append(before, w.Value)
		}
		if len(e.With) > 0 { // the new input holds the old one
			next = append(next, g.call(e.Location, "weigh input", 0, nil))
		}
		next = append(next, g.weighing(before, e.Location)...)
		next = append(next, e)
		next = append(next, g.weighing(after, e.Location)...)
	}
	for i, e := range next {
		e.Index = i
	}
	return next
}

// within guards the bodies that stand in an expression.
func (g *guarding) within(e *ast.Expr) {
	ast.WalkClosures(e, func(x any) bool {
		switch x := x.(type) {
		case *ast.ArrayComprehension:
			x.Body = append(g.body(x.Body), g.weighing([]*ast.Term{x.Term}, e.Location)...)
		case *ast.SetComprehension:
			x.Body = append(g.body(x.Body), g.weighing([]*ast.Term{x.Term}, e.Location)...)
		case *ast.ObjectComprehension:
			x.Body = append(g.body(x.Body), g.weighing([]*ast.Term{x.Key, x.Value}, e.Location)...)
		case *ast.Every:
			x.Body = g.body(x.Body)
		case *ast.Not:
			x.Body = g.body(x.Body)
		case *ast.LogicalAnd:
			x.Lhs, x.Rhs = g.body(x.Lhs), g.body(x.Rhs)
		case *ast.LogicalOr:
			x.Lhs, x.Rhs = g.body(x.Lhs), g.body(x.Rhs)
		}
		return true
	})
}

// composites lists the variables that a composite term puts together, once for
// each place.
func composites(t *ast.Term) []*ast.Term {
	switch t.Value.(type) {
	case *ast.Array, ast.Set, ast.Object:
		return variables(t, nil)
	}
	return nil
}

// variables appends those of a term, without what is local to closures.
func variables(t *ast.Term, to []*ast.Term) []*ast.Term {
	if t.IsGround() {
		return to
	}
	each := func(t *ast.Term) { to = variables(t, to) }
	switch v := t.Value.(type) {
	case ast.Var:
		if !v.IsWildcard() {
			to = append(to, t)
		}
	case *ast.Array:
		v.Foreach(each)
	case ast.Set:
		v.Foreach(each)
	case ast.Object:
		v.Foreach(func(k, v *ast.Term) { each(k); each(v) })
	}
	return to
}

// weighing makes the expressions that weigh the variables in terms.
func (g *guarding) weighing(terms []*ast.Term, at *ast.Location) ast.Body {
	var vars []*ast.Term
	for _, t := range terms {
		vars = variables(t, vars)
	}
	var body ast.Body
	for len(vars) > 0 {
		n := min(len(vars), 8)
		body = append(body, g.call(at, "weigh "+strconv.Itoa(n), n, vars[:n]))
		vars = vars[n:]
	}
	return body
}

// call makes a call of a function that weighs its arguments, or the input
// where it has none. Names with a blank cannot stand in a policy.
func (g *guarding) call(at *ast.Location, name string, arity int, args []*ast.Term) *ast.Expr {
	if g.builtins[name] == nil {
		params := make([]types.Type, arity)
		for i := range params {
			params[i] = types.A
		}
		g.builtins[name] = &topdown.Builtin{
			Decl: &ast.Builtin{Name: name, Decl: types.NewFunction(params, types.B)},
			Func: func(b topdown.BuiltinContext, args []*ast.Term, iter func(*ast.Term) error) error {
				t := b.Cancel.(*turn)
				if arity == 0 {
					args = []*ast.Term{ast.NewTerm(t.input)}
				}
				if err := t.spend(args[:max(arity, 1)]...); err != nil {
					return err
				}
				return iter(ast.InternedTerm(true))
			},
		}
	}
	e := ast.NewExpr(append([]*ast.Term{ast.NewTerm(ast.Ref{ast.VarTerm(name)})}, args...))
	e.Location, e.Generated = at, true
	return e
}

// operator names the guarded form of a built-in function.
func (g *guarding) operator(name string, with guarded) *ast.Term {
	own := "guarded " + name
	if g.builtins[own] == nil {
		decl := *ast.BuiltinMap[name]
		decl.Name, decl.CanSkipBctx = own, false
		g.builtins[own] = &topdown.Builtin{Decl: &decl, Func: with.function(name)}
	}
	return ast.NewTerm(ast.Ref{ast.VarTerm(own)})
}
