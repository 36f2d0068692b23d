package access_test

import (
	"testing"

	"github.com/latchkey-dev/latchkey"
	"github.com/latchkey-dev/latchkey/access"
	"github.com/latchkey-dev/latchkey/authz"
)

func TestMatch_TheSelectorWithMostLabelsWins(t *testing.T) {
	template := func(id, kind string, labels map[string]string) access.Template {
		return access.Template{ID: id, Selector: &access.ResourceSelector{Kind: kind, Labels: labels}}
	}
	all := []access.Template{
		{ID: "no resources"},
		template("any", "account", nil),
		template("prod", "account", map[string]string{"env": "prod"}),
		template("db", "account", map[string]string{"env": "prod", "tier": "db"}),
		template("web", "account", map[string]string{"env": "prod", "tier": "web"}),
		template("eu", "account", map[string]string{"env": "prod", "region": "eu"}),
		template("host", "host", nil),
	}
	account := func(labels string) authz.ResourceRecord {
		return authz.ResourceRecord{EntityRef: authz.EntityRef{Type: "account", ID: "1"}, Labels: labels}
	}
	for _, tt := range []struct {
		name       string
		resources  []authz.ResourceRecord
		want, code string
	}{
		{"no label", []authz.ResourceRecord{account(`{}`)}, "any", ""},
		{"one", []authz.ResourceRecord{account(`{"env":"prod"}`)}, "prod", ""},
		{"the most", []authz.ResourceRecord{account(`{"env":"prod","tier":"db","x":"y"}`)}, "db", ""},
		{"a tie", []authz.ResourceRecord{account(`{"env":"prod","tier":"db","region":"eu"}`)}, "", "template_ambiguous"},
		{"all of them", []authz.ResourceRecord{account(`{"env":"prod","tier":"db"}`), account(`{"env":"prod","tier":"web"}`)}, "prod", ""},
		{"another kind", []authz.ResourceRecord{{EntityRef: authz.EntityRef{Type: "bucket", ID: "1"}, Labels: `{}`}}, "", "no_template_for_resource"},
		{"of two kinds", []authz.ResourceRecord{account(`{}`), {EntityRef: authz.EntityRef{Type: "host", ID: "1"}, Labels: `{}`}}, "", "no_template_for_resource"},
		{"nothing", nil, "", "no_template_for_resource"},
	} {
		got, err := access.Match(all, tt.resources...)
		if latchkey.CodeOf(err) != tt.code || got != nil && got.ID != tt.want || got == nil && tt.want != "" {
			t.Errorf("%s: %+v, %v", tt.name, got, err)
		}
	}
}
