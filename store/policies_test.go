package store_test

import (
	"context"
	"fmt"
	"testing"

	"github.com/google/uuid"

	"github.com/latchkey-dev/latchkey"
	"github.com/latchkey-dev/latchkey/audit"
	"github.com/latchkey-dev/latchkey/authz"
	"github.com/latchkey-dev/latchkey/cache"
	"github.com/latchkey-dev/latchkey/store"
)

// change makes one in the customer's chain.
func change(t *testing.T, db *store.DB, customer string, do func(tx authz.Tx) error) error {
	t.Helper()
	return db.Change(context.Background(), authz.Change{Chain: customer, At: start}, func(tx authz.Tx) (audit.Draft, error) {
		return draft("x"), do(tx)
	})
}

func newPolicy(name string) authz.PolicyRecord {
	return authz.PolicyRecord{ID: uuid.NewString(), Name: name, Language: "cel", Description: "d", Version: 1, Document: `{"n":1}`,
		CreatedAt: start, UpdatedAt: start, Author: audit.Actor{Type: "root", ID: "root"}}
}

func TestPolicies_KeepTheLastVersionsAndTheirNumbers(t *testing.T) {
	eachEngine(t, func(t *testing.T, db *store.DB, _ place) {
		ctx := context.Background()
		p := newPolicy("main")
		err := change(t, db, authz.DefaultCustomer, func(tx authz.Tx) error {
			if err := tx.InsertPolicy(ctx, p); err != nil {
				return err
			}
			return tx.InsertPolicy(ctx, newPolicy("Main")) // another name
		})
		if err != nil {
			t.Fatal(err)
		}
		if got, err := db.Policy(ctx, authz.DefaultCustomer, "main"); err != nil || got != p {
			t.Errorf("read %+v, %v\nwant %+v", got, err, p)
		}
		for v := int64(2); v <= 5; v++ {
			p.Version, p.Document, p.UpdatedAt = v, fmt.Sprintf(`{"n":%d}`, v), start.Add(1)
			p.Author = audit.Actor{Type: "access_key", ID: "k"}
			if err := change(t, db, authz.DefaultCustomer, func(tx authz.Tx) error { return tx.UpdatePolicy(ctx, p, 3) }); err != nil {
				t.Fatal(err)
			}
		}
		list, err := db.PolicyVersions(ctx, authz.DefaultCustomer, "main")
		if err != nil || len(list) != 3 || list[0].Version != 5 || list[2].Version != 3 || list[0].Document != "" {
			t.Errorf("versions %+v, %v", list, err)
		}
		if got, err := db.PolicyVersion(ctx, authz.DefaultCustomer, "main", 3); err != nil || got.Document != `{"n":3}` || got.Author.ID != "k" {
			t.Errorf("version 3: %+v, %v", got, err)
		}
		for v, code := range map[int64]string{2: "version_not_found", 6: "version_not_found", 0: "version_not_found"} {
			if _, err := db.PolicyVersion(ctx, authz.DefaultCustomer, "main", v); latchkey.CodeOf(err) != code {
				t.Errorf("version %d: %v", v, err)
			}
		}
		if _, err := db.PolicyVersion(ctx, authz.DefaultCustomer, "none", 1); latchkey.CodeOf(err) != "policy_not_found" {
			t.Errorf("no policy: %v", err)
		}
		if _, err := db.PolicyVersions(ctx, authz.DefaultCustomer, "MAIN"); latchkey.CodeOf(err) != "policy_not_found" {
			t.Errorf("no policy: %v", err)
		}
		names, err := db.PolicyRecords(ctx, authz.DefaultCustomer)
		if err != nil || len(names) != 2 || names[0].Name != "Main" || names[1].Name != "main" || names[1].Version != 5 || names[1].Document != "" {
			t.Errorf("list %+v, %v", names, err)
		}
	})
}

// The attack: a change in one customer's chain reaches another's rows.
func TestPolicies_AreOfTheChainsCustomerOnly(t *testing.T) {
	eachEngine(t, func(t *testing.T, db *store.DB, _ place) {
		ctx := context.Background()
		err := change(t, db, audit.SystemChain, func(tx authz.Tx) error {
			return tx.InsertCustomer(ctx, authz.CustomerRecord{ID: "other", Name: "other", CreatedAt: start, DeletedAt: latchkey.Never})
		})
		if err != nil {
			t.Fatal(err)
		}
		p := newPolicy("main")
		if err := change(t, db, authz.DefaultCustomer, func(tx authz.Tx) error { return tx.InsertPolicy(ctx, p) }); err != nil {
			t.Fatal(err)
		}
		err = change(t, db, "other", func(tx authz.Tx) error {
			if _, err := tx.Policy(ctx, "main"); latchkey.CodeOf(err) != "policy_not_found" {
				t.Errorf("read: %v", err)
			}
			if n, err := tx.CountPolicies(ctx); n != 0 || err != nil {
				t.Errorf("counted %d, %v", n, err)
			}
			return tx.DeletePolicy(ctx, p.ID)
		})
		if err != nil {
			t.Fatal(err)
		}
		if got, err := db.Policy(ctx, authz.DefaultCustomer, "main"); err != nil || got != p {
			t.Errorf("another customer's change: %+v, %v", got, err)
		}
		if err := change(t, db, authz.DefaultCustomer, func(tx authz.Tx) error { return tx.InsertPolicy(ctx, newPolicy("main")) }); latchkey.CodeOf(err) != "policy_exists" {
			t.Errorf("a second of the name: %v", err)
		}
		if err := change(t, db, "other", func(tx authz.Tx) error { return tx.InsertPolicy(ctx, newPolicy("main")) }); err != nil {
			t.Errorf("the name in another customer: %v", err)
		}
	})
}

func TestLoadPolicies_ReturnsWhatEveryCustomerDecidesBy(t *testing.T) {
	eachEngine(t, func(t *testing.T, db *store.DB, at place) {
		ctx := context.Background()
		for _, id := range []string{"ended", "empty"} {
			if err := authz.NewCustomers(db, &cache.Table{}).Establish(ctx, id, start); err != nil {
				t.Fatal(err)
			}
		}
		for _, id := range []string{authz.DefaultCustomer, "ended"} {
			err := change(t, db, id, func(tx authz.Tx) error {
				c, err := tx.Customer(ctx)
				if err != nil {
					return err
				}
				if c.DefaultPolicy = "main"; id == "ended" {
					c.DeletedAt = start
				}
				if err := tx.InsertPolicy(ctx, newPolicy("main")); err != nil {
					return err
				}
				return tx.UpdateCustomer(ctx, c)
			})
			if err != nil {
				t.Fatal(err)
			}
		}
		list, err := at.open(t).LoadPolicies(ctx)
		if err != nil || len(list) != 1 || list[0].Customer != authz.DefaultCustomer || list[0].Default != "main" || list[0].Seq != 1 ||
			len(list[0].Policies) != 1 || list[0].Policies[0].Document != `{"n":1}` {
			t.Errorf("%+v, %v", list, err)
		}
	})
}
