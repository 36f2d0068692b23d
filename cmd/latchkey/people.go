package main

import (
	"github.com/latchkey-dev/latchkey/identity"
	"github.com/latchkey-dev/latchkey/people"
	"github.com/latchkey-dev/latchkey/server"
)

// people gives the server the services of people, who come with personal tokens
// and with those of issuers.
func (n *node) people(cfg *server.Config, issuers []identity.Issuer) {
	record := n.db.People()
	cfg.Tokens = people.NewTokens(record, n.peppers)
	cfg.People = cfg.Tokens
	if len(issuers) > 0 {
		cfg.People = &persons{tokens: cfg.Tokens, issuers: identities(issuers, n.db.Identities(), n.log)}
	}
	cfg.Rights = people.NewRights(n.db)
	with := people.Config{Record: record, Tokens: cfg.Tokens, Keys: cfg.Keys, Table: n.table, Parser: n.parser, Grants: n.subjects,
		Leaving: []people.Leaving{n.db.Access().Leaving(n.requests.Leave)}}
	cfg.Persons, cfg.Groups, cfg.Catalogue = people.NewPersons(with), people.NewGroups(with), people.NewCatalogue(with)
}
