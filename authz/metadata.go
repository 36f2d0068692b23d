package authz

import (
	"context"
	"time"

	lru "github.com/hashicorp/golang-lru/v2"

	"github.com/latchkey-dev/latchkey/policies"
)

// metadataWait bounds the one read of a key's metadata.
const metadataWait = time.Second

// MetadataSource finds what a key carries beside its scopes, as an object of
// strings. Safe for concurrent use.
type MetadataSource interface {
	Of(*KeyState) (*policies.Properties, error)
}

// Metadata finds what keys carry beside their scopes, for policies that read
// it. A key's metadata never changes, so it is read from the record once and
// then kept, in bounded number. Safe for concurrent use.
type Metadata struct {
	record Record
	kept   *lru.Cache[KeyID, *policies.Properties]
}

// NewMetadata makes one that keeps the metadata of up to most keys.
func NewMetadata(record Record, most int) *Metadata {
	kept, err := lru.New[KeyID, *policies.Properties](max(1, most))
	if err != nil {
		panic(err) // the size is positive
	}
	return &Metadata{record: record, kept: kept}
}

// Of returns a key's metadata as an object of strings.
func (m *Metadata) Of(key *KeyState) (*policies.Properties, error) {
	if p, ok := m.kept.Get(key.ID); ok {
		return p, nil
	}
	ctx, cancel := context.WithTimeout(context.Background(), metadataWait)
	defer cancel()
	k, err := m.record.Key(ctx, key.Customer.ID, key.ID)
	if err != nil {
		return nil, err
	}
	p, err := policies.NewProperties(k.Metadata)
	if err != nil {
		return nil, err
	}
	m.kept.Add(key.ID, p)
	return p, nil
}
