package access

import (
	"slices"
	"strings"

	"github.com/google/uuid"

	"github.com/latchkey-dev/latchkey"
	"github.com/latchkey-dev/latchkey/internal/strictjson"
	"github.com/latchkey-dev/latchkey/scopes"
)

// answers checks what was given for the custom fields, at pointer at, and puts it
// in their order, each with its label as it is now.
func (t *Template) answers(given map[string]AnswerValue, at string) ([]Answer, error) {
	var faults []latchkey.Fault
	for id := range given {
		if !slices.ContainsFunc(t.CustomFields, func(f CustomField) bool { return f.ID == id }) {
			faults = append(faults, latchkey.Fault{Pointer: strictjson.Pointer(at, id), Code: "unknown_field", Detail: "the template has no such field"})
		}
	}
	slices.SortFunc(faults, func(a, b latchkey.Fault) int { return strings.Compare(a.Pointer, b.Pointer) })
	var list []Answer
	for i := range t.CustomFields {
		f := &t.CustomFields[i]
		v, answered := given[f.ID]
		if answered {
			if err := f.check(v, strictjson.Pointer(at, f.ID)); err != nil {
				faults = append(faults, scopes.Faults(err)...)
				continue
			}
		}
		if !answered || v.empty() {
			if f.Required {
				faults = append(faults, latchkey.Fault{Pointer: strictjson.Pointer(at, f.ID), Code: "answer_required", Detail: "the template asks for an answer to: " + f.Label})
			}
			if !answered {
				continue
			}
		}
		list = append(list, Answer{Field: f.ID, Label: f.Label, Type: f.Type, Value: v})
	}
	if len(faults) > 0 {
		return nil, latchkey.InvalidFaults(faults...)
	}
	return list, nil
}

// empty reports whether it is as good as no answer.
func (v AnswerValue) empty() bool {
	switch v.Kind {
	case OptionsAnswer:
		return len(v.Options) == 0
	case CheckedAnswer:
		return !v.Checked
	default:
		return strings.TrimSpace(v.Text) == ""
	}
}

// check refuses what is no answer to the field.
func (f *CustomField) check(v AnswerValue, at string) error {
	kind, want := TextAnswer, "a string"
	switch f.Type {
	case MultiSelectField:
		kind, want = OptionsAnswer, "an array of strings"
	case CheckboxField:
		kind, want = CheckedAnswer, "true or false"
	case TextField, TextAreaField, SelectField:
	}
	if v.Kind != kind {
		return fault(at, "wrong_type", "want "+want)
	}
	switch f.Type {
	case TextField:
		if strings.ContainsAny(v.Text, "\r\n") {
			return fault(at, "control_character", "want one line")
		}
		return textAllowed(v.Text, at)
	case TextAreaField:
		return textAllowed(v.Text, at)
	case SelectField:
		if v.Text != "" && !slices.Contains(f.Options, v.Text) {
			return fault(at, "unknown_option", "want one of the options of: "+f.Label)
		}
	case MultiSelectField:
		for i, option := range v.Options {
			if !slices.Contains(f.Options, option) {
				return fault(strictjson.PointerIndex(at, i), "unknown_option", "want some of the options of: "+f.Label)
			}
			if slices.Contains(v.Options[:i], option) {
				return fault(strictjson.PointerIndex(at, i), "duplicate", "the option stands twice")
			}
		}
	case CheckboxField:
	}
	return nil
}

// named gives the fields of a template their ids: those that the fields had before,
// found by the id that is given or, without one, by the label; and new ones.
func named(fields, before []CustomField) ([]CustomField, error) {
	list := slices.Clone(fields)
	taken := map[string]bool{}
	for i := range list {
		id := list[i].ID
		if id == "" {
			continue
		}
		if !slices.ContainsFunc(before, func(f CustomField) bool { return f.ID == id }) || taken[id] {
			return nil, fault(strictjson.PointerIndex("/custom_fields", i)+"/id", "unknown_field", "the template has no such field; leave the id out of a new one")
		}
		taken[id] = true
	}
	for i := range list {
		if list[i].ID != "" {
			continue
		}
		for _, f := range before {
			if f.Label == list[i].Label && !taken[f.ID] {
				list[i].ID = f.ID
				break
			}
		}
		if list[i].ID == "" {
			list[i].ID = uuid.NewString()
		}
		taken[list[i].ID] = true
	}
	return list, nil
}
