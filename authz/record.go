package authz

import (
	"context"
	"net/netip"

	"github.com/latchkey-dev/latchkey"
	"github.com/latchkey-dev/latchkey/audit"
	"github.com/latchkey-dev/latchkey/policies"
	"github.com/latchkey-dev/latchkey/scopes"
)

// Record is the database as the services need it. Implemented by store.DB.
// Its errors are *latchkey.Error where they mean something to the caller;
// everything else is Internal.
type Record interface {
	// Change runs do in one transaction that begins by taking the chain's next
	// sequence number, so that all changes of a customer stand in one line;
	// checks again that the caller's credential holds; and writes the event
	// that do returns before it commits. When it returns an error, nothing has
	// happened, the event included; only when the database went away at the very
	// commit (storage_unavailable) is that uncertain. do may not keep the Tx, and
	// may be run more than once, each time as if it were the first: what it sets
	// outside itself is that of its last run. So may c.Reply.
	Change(ctx context.Context, c Change, do func(Tx) (audit.Draft, error)) error

	Key(ctx context.Context, customer string, id KeyID) (Key, error)
	Keys(ctx context.Context, q KeyQuery) (KeyPage, error)
	CustomerRecord(ctx context.Context, id string) (CustomerRecord, error)
	CustomerRecords(ctx context.Context, limit, offset int) ([]CustomerRecord, int, error)
	Reply(ctx context.Context, id ReplyID, now latchkey.Instant) (Reply, bool, error)

	// Policy returns the latest version of a policy.
	Policy(ctx context.Context, customer, name string) (PolicyRecord, error)
	// PolicyRecords lists a customer's policies by name, without documents.
	PolicyRecords(ctx context.Context, customer string) ([]PolicyRecord, error)
	// PolicyVersions lists the versions that are kept, newest first, without
	// documents.
	PolicyVersions(ctx context.Context, customer, name string) ([]PolicyRecord, error)
	// PolicyVersion returns one version.
	PolicyVersion(ctx context.Context, customer, name string, version int64) (PolicyRecord, error)
	// LoadPolicies returns what every customer that has not ended, and has
	// policies or a default policy, decides by.
	LoadPolicies(ctx context.Context) ([]CustomerPolicies, error)
	// Rules returns what a customer decides by, as of one moment. Of what have
	// holds already, nothing is read but that it is there; where have's revision
	// is the customer's, nothing at all.
	Rules(ctx context.Context, customer string, have *policies.Snapshot) (Rules, error)
	// SetRecord returns one set of a customer, NotFound without it.
	SetRecord(ctx context.Context, customer, name string) (SetRecord, error)
	// SetRecords returns all sets of a customer by name.
	SetRecords(ctx context.Context, customer string) ([]SetRecord, error)
	// SetValues returns values of a set, in the order of their bytes.
	SetValues(ctx context.Context, set string, q ValueQuery) ([]string, error)
	HasSetValue(ctx context.Context, set, value string) (bool, error)

	// WriteUses records last uses and re-made digests; a use older than the
	// recorded one is left out.
	WriteUses(ctx context.Context, uses []Use, digests []Rehash) error

	DirectoryRecord
	FeedRecord
}

// DirectoryRecord is what the database tells of stored subjects, resources and
// catalogues. Lists are in the order of type and id.
type DirectoryRecord interface {
	Subject(ctx context.Context, customer string, ref EntityRef) (SubjectRecord, bool, error)
	Resource(ctx context.Context, customer string, ref EntityRef) (ResourceRecord, bool, error)
	ResourceType(ctx context.Context, customer, typ string) (ResourceType, bool, error)
	Subjects(ctx context.Context, q EntityQuery) ([]SubjectRecord, error)
	Resources(ctx context.Context, q EntityQuery) ([]ResourceRecord, error)
	ResourceTypes(ctx context.Context, q EntityQuery) ([]ResourceType, error)

	// SubjectIDs and ResourceIDs return ids that come after the given one, of
	// subjects also those that hold a grant that has not ended at now, and of type
	// user the active persons.
	SubjectIDs(ctx context.Context, customer, typ, after string, now latchkey.Instant, limit int) ([]string, error)
	ResourceIDs(ctx context.Context, customer, typ, after string, limit int) ([]string, error)
	ActiveKeyIDs(ctx context.Context, q KeyCandidates) ([]string, error)

	// EachSubject and EachResource go over those of all customers that have not
	// ended; of a resource they give name and properties.
	EachSubject(ctx context.Context, do func(customer string, r SubjectRecord) error) error
	EachResource(ctx context.Context, do func(customer string, r ResourceRecord) error) error
	// EntitiesSince goes over the subjects and resources of a customer that a
	// change after the given one has made or changed; of a resource it gives name
	// and properties.
	EntitiesSince(ctx context.Context, customer string, after int64, subject func(SubjectRecord) error, resource func(ResourceRecord) error) error
}

// DirectoryTx is what a change may do to them, in the chain's customer.
type DirectoryTx interface {
	// UpsertSubjects and UpsertResources return what is stored, in the order of
	// the updates.
	UpsertSubjects(ctx context.Context, updates []SubjectUpdate) ([]SubjectRecord, error)
	UpsertResources(ctx context.Context, updates []ResourceUpdate) ([]ResourceRecord, error)
	SetResourceType(ctx context.Context, t ResourceType) error
	// Deletions report whether there was anything to delete.
	DeleteSubject(ctx context.Context, ref EntityRef) (bool, error)
	DeleteResource(ctx context.Context, ref EntityRef) (bool, error)
	DeleteResourceType(ctx context.Context, typ string) (bool, error)
}

// EntityQuery selects stored subjects, resources or catalogues of a customer.
type EntityQuery struct {
	Customer string
	Type     string            // "" is every type
	Prefix   string            // of the id, literally
	Labels   map[string]string // of resources, exact
	After    EntityRef         // the last one of the page before
	Limit    int
}

// KeyCandidates selects the ids of a customer's active keys, in their order.
type KeyCandidates struct {
	Customer string
	Now      latchkey.Instant
	// HiddenNames is the mask of scope names that a key must not have, unless it
	// is Own.
	HiddenNames int64
	Own         string
	After       string
	Limit       int
}

// Change names the transaction: which chain, by whom, when.
type Change struct {
	Chain string // a customer's id, or audit.SystemChain
	By    Caller
	At    latchkey.Instant
	// Reply, when set, is asked for once do has succeeded; what it returns is
	// kept in the same transaction, for a client that repeats its request.
	Reply func() (Reply, error)
}

// Tx is what a change may read and write.
type Tx interface {
	Customer(ctx context.Context) (CustomerRecord, error) // of the chain; locked
	InsertCustomer(ctx context.Context, c CustomerRecord) error
	UpdateCustomer(ctx context.Context, c CustomerRecord) error

	CountActiveKeys(ctx context.Context, now latchkey.Instant) (int, error)
	InsertKey(ctx context.Context, k Key, names int64, s KeySecret) error
	// NoteKeyPerson notes that a person was shown a secret of a key.
	NoteKeyPerson(ctx context.Context, id KeyID, person string) error
	// KeySecrets returns a key of the chain's customer with its secrets, the
	// current one first.
	KeySecrets(ctx context.Context, id KeyID) (Key, []KeySecret, error)
	RevokeKey(ctx context.Context, id KeyID, at latchkey.Instant) error
	// RotateKey puts the new secret in place, with the old ones ending as given.
	RotateKey(ctx context.Context, k Key, s KeySecret, ends map[Kid]latchkey.Instant) error

	// Policy returns the latest version of a policy of the chain's customer.
	Policy(ctx context.Context, name string) (PolicyRecord, error)
	CountPolicies(ctx context.Context) (int, error)
	// InsertPolicy writes a new policy with its first version.
	InsertPolicy(ctx context.Context, p PolicyRecord) error
	// UpdatePolicy writes a further version and drops those past the last keep.
	UpdatePolicy(ctx context.Context, p PolicyRecord, keep int) error
	DeletePolicy(ctx context.Context, id string) error
	// Set returns one set of the chain's customer, NotFound without it.
	Set(ctx context.Context, name string) (SetRecord, error)
	CountSets(ctx context.Context) (int, error)
	// InsertSet is a Conflict where the customer has a set of that name.
	InsertSet(ctx context.Context, s SetRecord) error
	UpdateSet(ctx context.Context, s SetRecord) error
	// DeleteSet deletes a set and its values.
	DeleteSet(ctx context.Context, set string) error
	// AddSetValues writes a row for each value that is not there yet, and
	// returns those.
	AddSetValues(ctx context.Context, set string, values []string) ([]string, error)
	// RemoveSetValues deletes the row of each value that is there, and returns
	// those.
	RemoveSetValues(ctx context.Context, set string, values []string) ([]string, error)
	// EachSetValue visits all values of a set, in the order of their bytes.
	EachSetValue(ctx context.Context, set string, visit func(value string)) error

	RootSecret(ctx context.Context) (KeySecret, bool, error)
	SetRootSecret(ctx context.Context, s KeySecret, at latchkey.Instant) error

	DirectoryTx
	GrantTx
	KeyPersonsTx

	// Event writes an event of its own before the one that the change ends with:
	// for a change that is two facts. Seq is the next number afterwards.
	Event(ctx context.Context, d audit.Draft) error
	// Seq is the sequence number that the change has taken.
	Seq() int64
	// Policies is that of the last change before it to what the customer decides
	// by.
	Policies() int64
	// Rules is Record's, as of this change.
	Rules(ctx context.Context, have *policies.Snapshot) (Rules, error)
}

// KeyQuery selects keys of one customer.
type KeyQuery struct {
	Customer string
	Status   string // "active", "all", "revoked"
	Now      latchkey.Instant
	// HiddenNames is the mask of scope names that a listed key must not have.
	HiddenNames   int64
	Metadata      map[string]string // exact
	SortField     string            // "created_at", "revoked_at"
	Ascending     bool
	Limit, Offset int
}

// KeyPage is one page of keys, and how many there are in all.
type KeyPage struct {
	Keys  []Key
	Total int
}

// CustomerRecord is a tenant's record.
type CustomerRecord struct {
	ID            string
	Name          string
	MaxActiveKeys int    // 0: the server's default
	DefaultPolicy string // "": the built-in one
	CreatedAt     latchkey.Instant
	DeletedAt     latchkey.Instant
}

// PolicyRecord is a version of a policy as stored.
type PolicyRecord struct {
	ID          string // of the record: another one when a name is used again
	Name        string
	Language    string
	Description string           // "" where one version of many is told of
	Version     int64            // from 1
	Document    string           // canonical JSON; "" in lists
	CreatedAt   latchkey.Instant // of the policy
	UpdatedAt   latchkey.Instant // when this version was made
	Author      audit.Actor      // who made this version: type and id
}

// CustomerPolicies are the latest versions of all policies of a customer.
type CustomerPolicies struct {
	Customer string
	Seq      int64 // of the customer's last change to any of this, and to sets
	Default  string
	Policies []PolicyRecord
}

// Rules are what a customer decides by, sets included.
type Rules struct {
	// Same says that it is as it was, and nothing else but Seq was read.
	Same bool
	// CustomerPolicies without the documents of those that were known.
	CustomerPolicies
	Sets []StoredSet
}

// StoredSet is a set with its values.
type StoredSet struct {
	SetRecord
	Set *policies.Set
}

// SetRecord is a set's record, without its values.
type SetRecord struct {
	ID          string // UUID
	Customer    string
	Name        string
	EntityType  scopes.EntityType
	Description string
	Size        int
	Version     int64 // counts its changes from 1
	Seq         int64 // sequence number of its last change
	CreatedAt   latchkey.Instant
	UpdatedAt   latchkey.Instant
}

// ValueQuery selects values of one set by their bytes.
type ValueQuery struct {
	Prefix string
	After  string // values that follow it; "" with First
	First  bool   // from the first one on
	Limit  int
}

// Use is one recorded use of a key.
type Use struct {
	Key    KeyID
	At     latchkey.Instant
	Source netip.Addr
}

// Rehash is a digest made again under the current pepper.
type Rehash struct {
	Kid    Kid
	Digest Digest
	Pepper string
}

// ReplyID finds a kept reply; a hash of everything that the key of an
// idempotent request is bound to.
type ReplyID [32]byte

// Reply is a kept answer. Sealed holds it encrypted, since it may show a
// secret.
type Reply struct {
	ID     ReplyID
	Body   [32]byte // hash of the request's body
	Sealed []byte
	EndsAt latchkey.Instant
}

// Ended reports whether the customer has been deleted.
func (c *CustomerRecord) Ended() bool { return c.DeletedAt != latchkey.Never }
