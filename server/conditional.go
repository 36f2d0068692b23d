package server

import (
	"strings"

	"github.com/latchkey-dev/latchkey/authz"
)

// conditions reads If-Match and If-None-Match, each of which may stand on
// several lines.
func (r *request) conditions() (cond authz.Conditions, err error) {
	for name, tags := range map[string]*authz.Tags{"If-Match": &cond.Match, "If-None-Match": &cond.NoneMatch} {
		var lines []string
		for _, line := range r.c.Request().Header.PeekAll(name) {
			lines = append(lines, string(line))
		}
		if lines == nil {
			continue
		}
		var ok bool
		if *tags, ok = authz.ParseTags(strings.Join(lines, ",")); !ok {
			return cond, faultAt("header:"+name, "invalid_entity_tag", `want * or a list of entity tags like "x"`)
		}
	}
	return cond, nil
}
