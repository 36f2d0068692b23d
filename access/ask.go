package access

import (
	"strings"

	"github.com/latchkey-dev/latchkey"
	"github.com/latchkey-dev/latchkey/authz"
	"github.com/latchkey-dev/latchkey/internal/strictjson"
	"github.com/latchkey-dev/latchkey/scopes"
)

// Ask is what an application asks for somebody: access to all of the resources,
// or none.
type Ask struct {
	Petitioner Petitioner
	Resources  []authz.EntityRef // at least one, distinct
	Reason     string
	Duration   Minutes // 0: the template's default
}

// Petitioner is the person that access is asked for, as the application knows
// them: by id, else by e-mail address.
type Petitioner struct{ ID, Email string }

// Limits of an ask.
const (
	maxPetitioner  = 254 // characters of an id or an address
	maxWaitSeconds = 60
)

// ParseAsk reads {petitioners: [{kind, id?, email?}], resources: [{kind, id}],
// reason?, duration?, wait?}, and how many seconds the caller wants to wait.
func ParseAsk(v strictjson.Value) (a Ask, wait int, err error) {
	var faults []latchkey.Fault
	r := readObject(v, "", &faults, "petitioners", "resources", "reason", "duration", "wait")
	r.require("petitioners", "resources")
	if a.Resources = r.resources("resources"); len(faults) == 0 && len(a.Resources) == 0 {
		r.fault("resources", "empty_list", "want one resource at least")
	}
	a.Petitioner = r.petitioner()
	a.Reason = strings.TrimSpace(r.prose("reason", maxText))
	a.Duration = r.duration("duration")
	wait = r.number("wait", 0, 0, maxWaitSeconds)
	if len(faults) > 0 {
		return Ask{}, 0, latchkey.InvalidFaults(faults...)
	}
	return a, wait, nil
}

// petitioner reads the list, which names one person: a request has one
// beneficiary.
func (r reader) petitioner() (p Petitioner) {
	n := 0
	r.elements("petitioners", 1, func(in reader, index string, v strictjson.Value) {
		n++
		one := readObject(v, in.at+"/"+index, r.faults, "kind", "id", "email")
		one.require("kind")
		if kind := one.text("kind", scopes.MaxTypeName); kind != "" && kind != authz.SubjectUser {
			one.fault("kind", "invalid_value", "want user")
		}
		p.ID, p.Email = one.text("id", maxPetitioner), one.text("email", maxPetitioner)
		if p.ID == "" && p.Email == "" && one.members != nil {
			one.fault("", "missing_member", "want the person's id, or e-mail address")
		}
	})
	if n == 0 && r.members["petitioners"].Kind() == strictjson.Array && r.members["petitioners"].Len() == 0 {
		r.fault("petitioners", "empty_list", "want one person")
	}
	return p
}
