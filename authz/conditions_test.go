package authz_test

import (
	"testing"

	"github.com/latchkey-dev/latchkey"
	"github.com/latchkey-dev/latchkey/authz"
)

func TestParseTags_TakesWhatTheStandardHasAndNothingElse(t *testing.T) {
	for value, ok := range map[string]bool{
		`*`: true, ` * `: true, `"a"`: true, `W/"a"`: true, `"a", W/"b"`: true, `"a","b"`: true, `""`: true, `, "a" ,, "b",`: true, `"a,b"`: true, `"é"`: true,
		``: false, `a`: false, `"a`: false, `a"`: false, `"a" "b"`: false, `"a"x`: false, `w/"a"`: false, `W/ "a"`: false, `*, "a"`: false, `"a", *`: false, `"a b"`: false, "\"a\x00\"": false, `,`: false,
	} {
		if _, got := authz.ParseTags(value); got != ok {
			t.Errorf("%q: %v, want %v", value, got, ok)
		}
	}
}

func TestConditions_CompareAsTheStandardHasIt(t *testing.T) {
	const now = `"x-2"`
	for _, tt := range []struct {
		match, noneMatch, current string
		met, changed              bool
	}{
		{"", "", now, true, true},
		{"", "", "", true, true},
		{`"x-2"`, "", now, true, true},
		{`"x-1", "x-2"`, "", now, true, true},
		{`"x-1"`, "", now, false, true},
		{`W/"x-2"`, "", now, false, true}, // strong
		{`*`, "", now, true, true},
		{`*`, "", "", false, true},
		{`"x-2"`, "", "", false, true},
		{"", `"x-2"`, now, false, false},
		{"", `W/"x-2"`, now, false, false}, // weak
		{"", `"x-1"`, now, true, true},
		{"", `*`, now, false, false},
		{"", `*`, "", true, true},
		{`"x-2"`, `"x-1"`, now, true, true},
		{`"x-2"`, `*`, now, false, false},
	} {
		var c authz.Conditions
		for value, tags := range map[string]*authz.Tags{tt.match: &c.Match, tt.noneMatch: &c.NoneMatch} {
			if value != "" {
				*tags, _ = authz.ParseTags(value)
			}
		}
		err := c.Met(tt.current)
		if (err == nil) != tt.met || err != nil && latchkey.KindOf(err) != latchkey.PreconditionFailed {
			t.Errorf("%+v: %v", tt, err)
		}
		if c.Changed(tt.current) != tt.changed {
			t.Errorf("%+v: changed %v", tt, !tt.changed)
		}
	}
}

func FuzzParseTags(f *testing.F) {
	for _, s := range []string{`*`, `"a", W/"b"`, `"a" "b"`, `,,W/`, `W/""`} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, value string) {
		tags, ok := authz.ParseTags(value)
		if !ok {
			return
		}
		c := authz.Conditions{Match: tags}
		if c.Met("") == nil {
			t.Errorf("%q is met by what is not there", value)
		}
	})
}
