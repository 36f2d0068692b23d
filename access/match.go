package access

import (
	"github.com/latchkey-dev/latchkey"
	"github.com/latchkey-dev/latchkey/authz"
)

// Match returns the template that the resources are asked for by: the one whose
// selector matches all of them, and of several the one that wants most labels.
// NotFound no_template_for_resource without one, Conflict template_ambiguous where
// two want as many.
func Match(templates []Template, resources ...authz.ResourceRecord) (*Template, error) {
	var best *Template
	twice := false
	for i := range templates {
		t := &templates[i]
		if len(resources) == 0 || !selectsAll(t, resources) {
			continue
		}
		switch {
		case best == nil || len(t.Selector.Labels) > len(best.Selector.Labels):
			best, twice = t, false
		case len(t.Selector.Labels) == len(best.Selector.Labels):
			twice = true
		}
	}
	switch {
	case best == nil:
		return nil, latchkey.Errorf(latchkey.NotFound, "no_template_for_resource", "there is no template by which the resources could be asked for")
	case twice:
		return nil, latchkey.Errorf(latchkey.Conflict, "template_ambiguous", "more than one template selects the resources, each by as many labels")
	}
	return best, nil
}

func selectsAll(t *Template, resources []authz.ResourceRecord) bool {
	for _, r := range resources {
		if !t.selects(r) {
			return false
		}
	}
	return true
}
