package policies

import (
	"encoding/json"

	"github.com/open-policy-agent/opa/v1/ast"

	"github.com/latchkey-dev/latchkey"
	"github.com/latchkey-dev/latchkey/internal/strictjson"
)

var (
	termAction       = ast.StringTerm("action")
	termAllow        = ast.StringTerm("allow")
	termContext      = ast.StringTerm("context")
	termEntitlement  = ast.StringTerm("entitlement")
	termExpiresAt    = ast.StringTerm("expires_at")
	termGrants       = ast.StringTerm("grants")
	termID           = ast.StringTerm("id")
	termLatchkey     = ast.StringTerm("latchkey")
	termMetadata     = ast.StringTerm("metadata")
	termName         = ast.StringTerm("name")
	termNotBefore    = ast.StringTerm("not_before")
	termNow          = ast.StringTerm("now")
	termObligations  = ast.StringTerm("obligations")
	termProperties   = ast.StringTerm("properties")
	termReason       = ast.StringTerm("reason")
	termReasons      = ast.StringTerm("reasons")
	termResource     = ast.StringTerm("resource")
	termScopePermits = ast.StringTerm("scope_permits")
	termSubject      = ast.StringTerm("subject")
	termType         = ast.StringTerm("type")

	noEnd       = ast.StringTerm("9999-12-31T23:59:59Z")
	emptyArray  = ast.ArrayTerm()
	emptyObject = ast.NewTerm(ast.NewObject())
)

// regoInput is the input document: an AuthZEN request, in which properties and
// context are objects even where the request left them out, and
//
//	latchkey: {scope_permits, grants: [{id, entitlement, reason, not_before, expires_at}], now}
//
// A time is RFC 3339 in UTC; a grant without an end has the last second of the
// year 9999, as in CEL.
func regoInput(in *Input) ast.Value {
	return ast.NewObject(
		[2]*ast.Term{termSubject, entityTerm(&in.Subject)},
		[2]*ast.Term{termAction, ast.ObjectTerm(
			[2]*ast.Term{termName, ast.StringTerm(in.Action.Name)},
			[2]*ast.Term{termProperties, objectTerm(in.Action.Properties)},
		)},
		[2]*ast.Term{termResource, entityTerm(&in.Resource)},
		[2]*ast.Term{termContext, objectTerm(in.Context)},
		[2]*ast.Term{termLatchkey, ast.ObjectTerm(
			[2]*ast.Term{termScopePermits, ast.InternedTerm(in.ScopePermits)},
			[2]*ast.Term{termGrants, grantsTerm(in.Grants)},
			[2]*ast.Term{termNow, ast.StringTerm(in.Now.String())},
		)},
	)
}

func entityTerm(e *Entity) *ast.Term {
	return ast.ObjectTerm(
		[2]*ast.Term{termType, ast.StringTerm(e.Type)},
		[2]*ast.Term{termID, ast.StringTerm(e.ID)},
		[2]*ast.Term{termProperties, propertiesTerm(e)},
	)
}

// propertiesTerm is the one kept with the stored properties where nothing lies
// over them.
func propertiesTerm(e *Entity) *ast.Term {
	metadata := e.Key && e.Metadata != nil
	if !metadata && !e.Key && e.Given.Len() == 0 {
		return e.Stored.term()
	}
	o := ast.NewObjectWithCapacity(e.Given.Len() + 1)
	for name, v := range e.Properties {
		if metadata && name == "metadata" {
			o.Insert(termMetadata, e.Metadata.term())
		} else {
			o.Insert(ast.StringTerm(name), jsonTerm(v))
		}
	}
	return ast.NewTerm(o)
}

func grantsTerm(grants []Grant) *ast.Term {
	if len(grants) == 0 {
		return emptyArray
	}
	terms := make([]*ast.Term, len(grants))
	for i := range grants {
		g := &grants[i]
		terms[i] = ast.ObjectTerm(
			[2]*ast.Term{termID, ast.StringTerm(g.ID)},
			[2]*ast.Term{termEntitlement, ast.StringTerm(g.Entitlement)},
			[2]*ast.Term{termReason, ast.StringTerm(g.Reason)},
			[2]*ast.Term{termNotBefore, timeTerm(g.NotBefore)},
			[2]*ast.Term{termExpiresAt, timeTerm(g.ExpiresAt)},
		)
	}
	return ast.ArrayTerm(terms...)
}

// timeTerm is RFC 3339 in UTC, for what has no end that of CEL.
func timeTerm(at latchkey.Instant) *ast.Term {
	if at == latchkey.Never {
		return noEnd
	}
	return ast.StringTerm(at.String())
}

// objectTerm is jsonTerm of an object, {} where there is none.
func objectTerm(v strictjson.Value) *ast.Term {
	if v.Kind() == strictjson.Missing {
		return emptyObject
	}
	return jsonTerm(v)
}

// jsonTerm turns a JSON value into OPA's, numbers with the text they have.
func jsonTerm(v strictjson.Value) *ast.Term {
	switch v.Kind() {
	case strictjson.Bool:
		return ast.InternedTerm(v.True())
	case strictjson.Number:
		return ast.NumberTerm(json.Number(v.Raw()))
	case strictjson.String:
		return ast.StringTerm(v.Text())
	case strictjson.Array:
		terms := make([]*ast.Term, 0, 8)
		for _, e := range v.Elements() {
			terms = append(terms, jsonTerm(e))
		}
		return ast.ArrayTerm(terms...)
	case strictjson.Object:
		members := make([][2]*ast.Term, 0, 8)
		for name, m := range v.Members() {
			members = append(members, [2]*ast.Term{ast.StringTerm(name), jsonTerm(m)})
		}
		return ast.ObjectTerm(members...)
	default:
		return ast.InternedNullTerm
	}
}

// term is the properties as OPA's value, made once.
func (p *Properties) term() *ast.Term {
	if p == nil {
		return emptyObject
	}
	if t := p.rego.Load(); t != nil {
		return t
	}
	t := jsonTerm(p.doc.Root())
	p.rego.Store(t)
	return t
}
