package servers_test

import (
	"testing"

	"github.com/latchkey-dev/latchkey/internal/servers"
)

func TestPostgres_IsThereAgainAfterAnEndOfAnyKind(t *testing.T) {
	s := servers.StartPostgres(t)
	db := s.Database(t)
	s.SQL(t, db, `CREATE TABLE t (n BIGINT)`)
	for _, end := range []func(testing.TB){s.Stop, s.Kill} {
		s.SQL(t, db, `INSERT INTO t (n) VALUES (1)`)
		end(t)
		s.Start(t)
	}
	if got := s.SQL(t, db, `SELECT count(*), 'a' < 'B' FROM t`); got != "2|t" {
		t.Errorf("got %q; want both rows, and an order that is not of bytes", got)
	}
}

func TestPostgres_GivesEachTestADatabaseOfItsOwn(t *testing.T) {
	a, b := servers.Postgres(t), servers.Postgres(t)
	servers.SQL(t, a, `CREATE TABLE t (n BIGINT)`)
	if got := servers.SQL(t, b, `SELECT count(*) FROM pg_tables WHERE tablename = 't'`); got != "0" {
		t.Errorf("the other one's table is there: %q", got)
	}
}
