package main

import (
	"github.com/latchkey-dev/latchkey/people"
	"github.com/latchkey-dev/latchkey/server"
)

// people gives the server the services of people.
func (n *node) people(cfg *server.Config) {
	record := n.db.People()
	cfg.Tokens = people.NewTokens(record, n.peppers)
	cfg.People = cfg.Tokens
	with := people.Config{Record: record, Tokens: cfg.Tokens, Keys: cfg.Keys, Table: n.table, Parser: n.parser, Grants: n.subjects}
	cfg.Persons, cfg.Groups, cfg.Catalogue = people.NewPersons(with), people.NewGroups(with), people.NewCatalogue(with)
}
