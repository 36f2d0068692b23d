package policies

import (
	"math"
	"reflect"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/google/cel-go/cel"
	"github.com/google/cel-go/common/types"
	"github.com/google/cel-go/common/types/ref"
	"github.com/google/cel-go/common/types/traits"

	"github.com/latchkey-dev/latchkey"
	"github.com/latchkey-dev/latchkey/internal/strictjson"
)

// celMaxWork bounds the work of one evaluation that is weighed, in units of
// about ten nanoseconds.
const celMaxWork = 4_000_000

// celSelf is the name by which our own steps find the evaluation. No
// identifier looks like it.
const celSelf = "@latchkey"

var celEvaluations = sync.Pool{New: func() any { return new(celEvaluation) }}

// celEvaluation is one evaluation: what the names of a policy stand for, and
// how far it has come. It is pooled, so that a question that touches a few
// members of its input makes little garbage.
type celEvaluation struct {
	snapshot *Snapshot
	in       *Input
	work     int
	at       int // the rule that is looked at
	matched  bool

	subject, resource celObject
	action, context   celObject
	subjectEntity     celEntity
	resourceEntity    celEntity
	actionMembers     celAction
	contextMembers    celJSON
	now, grants       ref.Val
}

func (e *celEvaluation) begin(s *Snapshot, in *Input) {
	e.snapshot, e.in = s, in
	e.subjectEntity.begin(e, &in.Subject)
	e.resourceEntity.begin(e, &in.Resource)
	e.actionMembers = celAction{e: e, action: &in.Action}
	e.contextMembers = celJSON{e: e, value: in.Context}
	e.subject = celObject{e, &e.subjectEntity}
	e.resource = celObject{e, &e.resourceEntity}
	e.action = celObject{e, &e.actionMembers}
	e.context = celObject{e, &e.contextMembers}
}

// end lets go of all that was the question's: it may lie in a buffer that the
// next request overwrites.
func (e *celEvaluation) end() { *e = celEvaluation{} }

// ResolveName finds a variable.
func (e *celEvaluation) ResolveName(name string) (any, bool) {
	switch name {
	case "subject":
		return &e.subject, true
	case "resource":
		return &e.resource, true
	case "action":
		return &e.action, true
	case "context":
		return &e.context, true
	case celSelf:
		return e, true
	case "scope_permits":
		return types.Bool(e.in.ScopePermits), true
	case "now":
		if e.now == nil {
			e.now = celTime(e.in.Now)
		}
		return e.now, true
	case "grants":
		if e.grants == nil {
			e.grants = celGrants(e.in.Grants)
		}
		return e.grants, true
	}
	return nil, false
}

// Parent is there for the interface.
func (e *celEvaluation) Parent() cel.Activation { return nil }

// charge counts work and reports whether it is still within bounds.
func (e *celEvaluation) charge(n int) bool {
	e.work += n
	return e.work <= celMaxWork
}

// weigh charges a value's weight.
func (e *celEvaluation) weigh(v ref.Val) bool { return e.charge(e.weight(v)) }

// weight counts a value's parts with all their parts, as often as they are
// there; it stops where there are more than may be.
func (e *celEvaluation) weight(v ref.Val) int {
	left := celMaxWork + 1
	celWeigh(v, &left)
	return celMaxWork + 1 - left
}

func celWeigh(v ref.Val, left *int) {
	if *left--; *left <= 0 {
		*left = 0
		return
	}
	switch v := v.(type) {
	case types.String:
		*left = max(0, *left-len(v)/64)
	case types.Bytes:
		*left = max(0, *left-len(v)/64)
	case *celObject:
		*left = max(0, *left-v.members.bulk())
	case *celList:
		*left = max(0, *left-celBulk(v.value))
	case traits.Mapper:
		for it := v.Iterator(); it.HasNext() == types.True && *left > 0; {
			*left = max(0, *left-celElement)
			key := it.Next()
			celWeigh(key, left)
			celWeigh(v.Get(key), left)
		}
	case traits.Lister:
		for it := v.Iterator(); it.HasNext() == types.True && *left > 0; {
			*left = max(0, *left-celElement)
			celWeigh(it.Next(), left)
		}
	case *types.Optional:
		if v.HasValue() {
			celWeigh(v.GetValue(), left)
		}
	}
}

// celElement is the weight of an element of a list or map that a rule has made,
// apart from its value: reaching it may take a walk through all the lists that
// it was put together from.
const celElement = 64

// celBulk is the weight of JSON, by its text.
func celBulk(v strictjson.Value) int { return 2*len(v.Raw()) + 1 }

// celTime is a timestamp; what has no end has CEL's greatest.
func celTime(t latchkey.Instant) ref.Val {
	if t == latchkey.Never {
		return types.Timestamp{Time: time.Date(9999, 12, 31, 23, 59, 59, 0, time.UTC)}
	}
	return types.Timestamp{Time: t.Time()}
}

// celGrants makes the list of grants; there are few, and few policies ask.
func celGrants(grants []Grant) ref.Val {
	list := make([]ref.Val, len(grants))
	for i, g := range grants {
		list[i] = types.NewRefValMap(types.DefaultTypeAdapter, map[ref.Val]ref.Val{
			types.String("id"):          types.String(g.ID),
			types.String("entitlement"): types.String(g.Entitlement),
			types.String("reason"):      types.String(g.Reason),
			types.String("not_before"):  celTime(g.NotBefore),
			types.String("expires_at"):  celTime(g.ExpiresAt),
		})
	}
	return types.NewRefValList(types.DefaultTypeAdapter, list)
}

// value is a JSON value as CEL sees it: a view, not a copy.
func (e *celEvaluation) value(v strictjson.Value) ref.Val {
	switch v.Kind() {
	case strictjson.Bool:
		return types.Bool(v.True())
	case strictjson.Number:
		return celNumber(v.Raw())
	case strictjson.String:
		return types.String(v.Text())
	case strictjson.Array:
		return &celList{e: e, value: v}
	case strictjson.Object:
		return e.object(v)
	default:
		return types.NullValue
	}
}

func (e *celEvaluation) object(v strictjson.Value) *celObject {
	return &celObject{e: e, members: &celJSON{e: e, value: v}}
}

// celNumber reads an integer of 64 bits as int, all else as double.
func celNumber(raw string) ref.Val {
	if !strings.ContainsAny(raw, ".eE") {
		if n, err := strconv.ParseInt(raw, 10, 64); err == nil {
			return types.Int(n)
		}
	}
	f, err := strconv.ParseFloat(raw, 64)
	if err != nil { // beyond a float64, which the parser refuses
		f = math.NaN()
	}
	return types.Double(f)
}

// celMembers is what an object consists of.
type celMembers interface {
	// find returns a member, nil when there is none.
	find(name string) ref.Val
	// text returns the text at a path; ok is false for all that is no text.
	text(path []string) (s string, ok bool)
	// each yields every member once.
	each(yield func(name string, value ref.Val) bool)
	// bulk is the weight of all members.
	bulk() int
	// native is the object as a map of Go.
	native() map[string]any
}

// celEntity is a subject or a resource.
type celEntity struct {
	e          *celEvaluation
	entity     *Entity
	kind, id   ref.Val // made when asked for
	properties celObject
	props      celProperties
}

func (m *celEntity) begin(e *celEvaluation, entity *Entity) {
	m.e, m.entity = e, entity
	m.props.e, m.props.entity = e, entity
	m.properties = celObject{e, &m.props}
}

func (m *celEntity) find(name string) ref.Val {
	switch name {
	case "type":
		if m.kind == nil {
			m.kind = types.String(m.entity.Type)
		}
		return m.kind
	case "id":
		if m.id == nil {
			m.id = types.String(m.entity.ID)
		}
		return m.id
	case "properties":
		return &m.properties
	}
	return nil
}

func (m *celEntity) text(path []string) (string, bool) {
	if len(path) > 1 {
		if path[0] != "properties" {
			return "", false
		}
		return m.props.text(path[1:])
	}
	switch path[0] {
	case "type":
		return m.entity.Type, true
	case "id":
		return m.entity.ID, true
	}
	return "", false
}

func (m *celEntity) each(yield func(string, ref.Val) bool) {
	_ = yield("type", m.find("type")) && yield("id", m.find("id")) && yield("properties", &m.properties)
}

func (m *celEntity) bulk() int {
	return (len(m.entity.Type)+len(m.entity.ID))/64 + 3 + m.props.bulk()
}

func (m *celEntity) native() map[string]any {
	return map[string]any{"type": m.entity.Type, "id": m.entity.ID, "properties": m.props.native()}
}

// celProperties are an entity's properties: those of the request over those
// that are stored. A few that were found are remembered, since the rules of a
// policy ask for the same ones again and again.
type celProperties struct {
	e       *celEvaluation
	entity  *Entity
	scan    int // work of one search, 0 before the first
	n       int
	entries [8]celEntry
}

type celEntry struct {
	name  string
	json  strictjson.Value
	value ref.Val // made when asked for
}

// entry finds a property; false where there is none.
func (m *celProperties) entry(name string) (*celEntry, bool) {
	for i := range m.entries[:m.n] {
		if m.entries[i].name == name {
			return &m.entries[i], true
		}
	}
	if m.scan == 0 {
		m.scan = 1 + (m.entity.Given.Len()+m.entity.Stored.Value().Len())/2
	}
	m.e.charge(m.scan)
	v := m.entity.Property(name)
	if v.Kind() == strictjson.Missing {
		return nil, false
	}
	entry := &celEntry{}
	if m.n < len(m.entries) {
		entry = &m.entries[m.n]
		m.n++
	}
	*entry = celEntry{name: name, json: v}
	return entry, true
}

func (m *celProperties) find(name string) ref.Val {
	entry, ok := m.entry(name)
	if !ok {
		return nil
	}
	if entry.value == nil {
		entry.value = m.e.value(entry.json)
	}
	return entry.value
}

func (m *celProperties) text(path []string) (string, bool) {
	entry, ok := m.entry(path[0])
	if !ok {
		return "", false
	}
	return m.e.textAt(entry.json, path[1:])
}

func (m *celProperties) each(yield func(string, ref.Val) bool) {
	for name, v := range m.entity.Properties {
		if !yield(name, m.e.value(v)) {
			return
		}
	}
}

func (m *celProperties) bulk() int {
	return celBulk(m.entity.Given) + celBulk(m.entity.Stored.Value()) + celBulk(m.entity.Metadata.Value())
}

func (m *celProperties) native() map[string]any {
	native := map[string]any{}
	for name, v := range m.entity.Properties {
		native[name] = celNative(v)
	}
	return native
}

// textAt follows a path into JSON.
func (e *celEvaluation) textAt(v strictjson.Value, path []string) (string, bool) {
	for _, name := range path {
		e.charge(len(v.Raw())/16 + 1)
		v = v.Get(name)
	}
	return v.Text(), v.Kind() == strictjson.String
}

// celAction is an action.
type celAction struct {
	e          *celEvaluation
	action     *Action
	name       ref.Val
	properties ref.Val
}

func (m *celAction) find(name string) ref.Val {
	switch name {
	case "name":
		if m.name == nil {
			m.name = types.String(m.action.Name)
		}
		return m.name
	case "properties":
		if m.properties == nil {
			m.properties = m.e.object(m.action.Properties)
		}
		return m.properties
	}
	return nil
}

func (m *celAction) text(path []string) (string, bool) {
	switch {
	case len(path) == 1 && path[0] == "name":
		return m.action.Name, true
	case len(path) > 1 && path[0] == "properties":
		return m.e.textAt(m.action.Properties, path[1:])
	}
	return "", false
}

func (m *celAction) each(yield func(string, ref.Val) bool) {
	_ = yield("name", m.find("name")) && yield("properties", m.find("properties"))
}

func (m *celAction) bulk() int { return len(m.action.Name)/64 + 2 + celBulk(m.action.Properties) }

func (m *celAction) native() map[string]any {
	return map[string]any{"name": m.action.Name, "properties": celNativeObject(m.action.Properties)}
}

// celJSON is a JSON object; Missing is an empty one. A large one that is asked
// again and again gets an index, and a member that is an object or an array
// stays the same value, so that it keeps its own.
type celJSON struct {
	e     *celEvaluation
	value strictjson.Value
	asked int
	index map[string]strictjson.Value
	n     int
	kept  [4]celEntry
}

// Where an index pays: bytes of the object's text, and searches of it.
const (
	celIndexSize  = 1024
	celIndexAsked = 4
)

func (m *celJSON) find(name string) ref.Val {
	for i := range m.kept[:m.n] {
		if m.kept[i].name == name {
			return m.kept[i].value
		}
	}
	v := m.member(name)
	switch v.Kind() {
	case strictjson.Missing:
		return nil
	case strictjson.Object, strictjson.Array:
		value := m.e.value(v)
		if m.n < len(m.kept) {
			m.kept[m.n] = celEntry{name: name, value: value}
			m.n++
		}
		return value
	default:
		return m.e.value(v)
	}
}

func (m *celJSON) member(name string) strictjson.Value {
	size := len(m.value.Raw())
	if m.asked++; m.index == nil && size > celIndexSize && m.asked > celIndexAsked {
		m.e.charge(size / 8)
		m.index = make(map[string]strictjson.Value)
		for n, v := range m.value.Members() {
			m.index[n] = v
		}
	}
	if m.index != nil {
		return m.index[name]
	}
	m.e.charge(size/16 + 1)
	return m.value.Get(name)
}

func (m *celJSON) text(path []string) (string, bool) { return m.e.textAt(m.value, path) }

func (m *celJSON) each(yield func(string, ref.Val) bool) {
	for name, v := range m.value.Members() {
		if !yield(name, m.e.value(v)) {
			return
		}
	}
}

func (m *celJSON) bulk() int { return celBulk(m.value) }

func (m *celJSON) native() map[string]any { return celNativeObject(m.value) }

// celNative is a JSON value as Go has it.
func celNative(v strictjson.Value) any {
	switch v.Kind() {
	case strictjson.Object:
		return celNativeObject(v)
	case strictjson.Array:
		list := []any{}
		for _, element := range v.Elements() {
			list = append(list, celNative(element))
		}
		return list
	case strictjson.Bool:
		return v.True()
	case strictjson.Number:
		return celNumber(v.Raw()).Value()
	case strictjson.String:
		return v.Text()
	default:
		return nil
	}
}

func celNativeObject(v strictjson.Value) map[string]any {
	native := map[string]any{}
	for name, member := range v.Members() {
		native[name] = celNative(member)
	}
	return native
}

// celObject is CEL's map over members that stay where they are.
type celObject struct {
	e       *celEvaluation
	members celMembers
}

var _ traits.Mapper = (*celObject)(nil)

// Find implements traits.Mapper.
func (o *celObject) Find(key ref.Val) (ref.Val, bool) {
	name, ok := key.(types.String)
	if !ok {
		if types.IsUnknownOrError(key) {
			return key, false
		}
		return nil, false
	}
	v := o.members.find(string(name))
	return v, v != nil
}

// Get implements traits.Indexer.
func (o *celObject) Get(key ref.Val) ref.Val {
	v, found := o.Find(key)
	if !found {
		return types.ValOrErr(v, "no such key")
	}
	return v
}

// Contains implements traits.Container.
func (o *celObject) Contains(key ref.Val) ref.Val {
	v, found := o.Find(key)
	if v != nil && types.IsUnknownOrError(v) {
		return v
	}
	return types.Bool(found)
}

// Size implements traits.Sizer.
func (o *celObject) Size() ref.Val {
	n := types.Int(0)
	o.members.each(func(string, ref.Val) bool { n++; return true })
	return n
}

// Iterator implements traits.Iterable; it yields the names.
func (o *celObject) Iterator() traits.Iterator {
	it := &celIterator{}
	o.members.each(func(name string, _ ref.Val) bool {
		it.values = append(it.values, types.String(name))
		return true
	})
	return it
}

// Equal compares as cel-go compares maps.
func (o *celObject) Equal(other ref.Val) ref.Val {
	m, ok := other.(traits.Mapper)
	if !ok || o.Size() != m.Size() {
		return types.False
	}
	equal := ref.Val(types.True)
	o.members.each(func(name string, mine ref.Val) bool {
		if o.e.work > celMaxWork {
			equal = types.WrapErr(errCELCostly)
			return false
		}
		theirs, found := m.Find(types.String(name))
		if !found {
			equal = types.False
			return false
		}
		if types.Equal(mine, theirs) == types.False {
			equal = types.False
			return false
		}
		return true
	})
	return equal
}

// ConvertToNative implements ref.Val.
func (o *celObject) ConvertToNative(t reflect.Type) (any, error) {
	return types.DefaultTypeAdapter.NativeToValue(o.members.native()).ConvertToNative(t)
}

// ConvertToType implements ref.Val.
func (o *celObject) ConvertToType(t ref.Type) ref.Val {
	switch t {
	case types.MapType:
		return o
	case types.TypeType:
		return types.MapType
	}
	return types.NewErr("no such overload: conversion of a map")
}

// Type implements ref.Val.
func (o *celObject) Type() ref.Type { return types.MapType }

// Value implements ref.Val.
func (o *celObject) Value() any { return o.members.native() }

// IsZeroValue says to optional.ofNonZeroValue whether the map is empty.
func (o *celObject) IsZeroValue() bool { return o.Size() == types.IntZero }

// celList is CEL's list over a JSON array that stays where it is.
type celList struct {
	e        *celEvaluation
	value    strictjson.Value
	elements []strictjson.Value // once they are asked for by number
	listed   bool
}

var _ traits.Lister = (*celList)(nil)

func (l *celList) list() []strictjson.Value {
	if !l.listed {
		l.listed = true
		l.e.charge(len(l.value.Raw())/64 + 1)
		for _, v := range l.value.Elements() {
			l.elements = append(l.elements, v)
		}
	}
	return l.elements
}

// Get implements traits.Indexer.
func (l *celList) Get(index ref.Val) ref.Val {
	i, err := types.IndexOrError(index)
	if err != nil {
		return types.ValOrErr(index, "%v", err)
	}
	if list := l.list(); i >= 0 && i < len(list) {
		return l.e.value(list[i])
	}
	return types.NewErr("index out of bounds")
}

// Contains implements traits.Container.
func (l *celList) Contains(value ref.Val) ref.Val {
	if types.IsUnknownOrError(value) {
		return value
	}
	for _, v := range l.value.Elements() {
		if s, ok := value.(types.String); ok {
			if v.Kind() == strictjson.String && v.Text() == string(s) {
				return types.True
			}
			continue
		}
		if types.Equal(value, l.e.value(v)) == types.True {
			return types.True
		}
	}
	return types.False
}

// Size implements traits.Sizer.
func (l *celList) Size() ref.Val { return types.Int(len(l.list())) }

// Iterator implements traits.Iterable.
func (l *celList) Iterator() traits.Iterator { return &celIterator{list: l, of: l.list()} }

// Add implements traits.Adder.
func (l *celList) Add(other ref.Val) ref.Val {
	list := make([]ref.Val, len(l.list()))
	for i, v := range l.elements {
		list[i] = l.e.value(v)
	}
	l.e.charge(len(list))
	return types.NewRefValList(types.DefaultTypeAdapter, list).(traits.Adder).Add(other)
}

// Equal compares as cel-go compares lists.
func (l *celList) Equal(other ref.Val) ref.Val {
	o, ok := other.(traits.Lister)
	if !ok || l.Size() != o.Size() {
		return types.False
	}
	for i, v := range l.list() {
		if l.e.work > celMaxWork {
			return types.WrapErr(errCELCostly)
		}
		if types.Equal(l.e.value(v), o.Get(types.Int(i))) == types.False {
			return types.False
		}
	}
	return types.True
}

// ConvertToNative implements ref.Val.
func (l *celList) ConvertToNative(t reflect.Type) (any, error) {
	list := make([]ref.Val, len(l.list()))
	for i, v := range l.elements {
		list[i] = l.e.value(v)
	}
	return types.NewRefValList(types.DefaultTypeAdapter, list).ConvertToNative(t)
}

// ConvertToType implements ref.Val.
func (l *celList) ConvertToType(t ref.Type) ref.Val {
	switch t {
	case types.ListType:
		return l
	case types.TypeType:
		return types.ListType
	}
	return types.NewErr("no such overload: conversion of a list")
}

// Type implements ref.Val.
func (l *celList) Type() ref.Type { return types.ListType }

// Value implements ref.Val.
func (l *celList) Value() any { return celNative(l.value) }

// IsZeroValue says to optional.ofNonZeroValue whether the list is empty.
func (l *celList) IsZeroValue() bool { return len(l.list()) == 0 }

// celIterator goes over values, or over the elements of a list.
type celIterator struct {
	values []ref.Val
	list   *celList
	of     []strictjson.Value
	next   int
}

// HasNext implements traits.Iterator.
func (i *celIterator) HasNext() ref.Val { return types.Bool(i.next < len(i.values)+len(i.of)) }

// Next implements traits.Iterator.
func (i *celIterator) Next() ref.Val {
	n := i.next
	if n >= len(i.values)+len(i.of) {
		return nil
	}
	i.next++
	if i.list != nil {
		return i.list.e.value(i.of[n])
	}
	return i.values[n]
}

// ConvertToNative, ConvertToType, Equal, Type and Value implement ref.Val; an
// iterator is no value that an expression could hold.
func (i *celIterator) ConvertToNative(reflect.Type) (any, error) { return i, nil }

// ConvertToType implements ref.Val.
func (i *celIterator) ConvertToType(ref.Type) ref.Val {
	return types.NewErr("no such overload: conversion of an iterator")
}

// Equal implements ref.Val.
func (i *celIterator) Equal(ref.Val) ref.Val { return types.False }

// Type implements ref.Val.
func (i *celIterator) Type() ref.Type { return types.IteratorType }

// Value implements ref.Val.
func (i *celIterator) Value() any { return i }
