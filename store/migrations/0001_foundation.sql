-- +goose Up
-- Times are microseconds since the Unix epoch; 9223372036854775807 is never.
-- Column types are TEXT, BIGINT and BLOB only, so that one text serves every
-- engine.

-- seq is the last sequence number of the customer's chain of events: every
-- change begins by taking the next. '_system' is the chain outside customers.
CREATE TABLE customers (
    id              TEXT   NOT NULL PRIMARY KEY,
    name            TEXT   NOT NULL,
    max_active_keys BIGINT NOT NULL, -- 0: the server's default
    seq             BIGINT NOT NULL,
    created_at      BIGINT NOT NULL,
    deleted_at      BIGINT NOT NULL
);

INSERT INTO customers (id, name, max_active_keys, seq, created_at, deleted_at)
VALUES ('_system', 'system', 0, 0, 0, 9223372036854775807);

CREATE TABLE access_keys (
    id               TEXT   NOT NULL PRIMARY KEY,
    customer_id      TEXT   NOT NULL REFERENCES customers (id),
    handle           TEXT   NOT NULL,
    scopes           TEXT   NOT NULL, -- canonical JSON
    names            BIGINT NOT NULL, -- mask of the scope names, for visibility
    metadata         TEXT   NOT NULL, -- canonical JSON
    created_at       BIGINT NOT NULL,
    expires_at       BIGINT NOT NULL,
    revoked_at       BIGINT NOT NULL,
    rotated_from     TEXT   NOT NULL,
    last_used_at     BIGINT NOT NULL,
    last_used_source TEXT   NOT NULL,
    version          BIGINT NOT NULL
);

-- For the list and the count of active keys.
CREATE INDEX access_keys_by_customer ON access_keys (customer_id, created_at, id);

-- A field of metadata a row, for exact filters.
CREATE TABLE access_key_metadata (
    key_id TEXT NOT NULL REFERENCES access_keys (id),
    field  TEXT NOT NULL,
    value  TEXT NOT NULL,
    PRIMARY KEY (key_id, field)
);

-- What is kept of secrets is a digest. pepper is the fingerprint of the key
-- that it was made under, empty for plain SHA-256.
CREATE TABLE access_key_secrets (
    kid     TEXT   NOT NULL PRIMARY KEY,
    key_id  TEXT   NOT NULL REFERENCES access_keys (id),
    mode    TEXT   NOT NULL,
    digest  BLOB   NOT NULL,
    pepper  TEXT   NOT NULL,
    ends_at BIGINT NOT NULL
);

CREATE INDEX access_key_secrets_by_key ON access_key_secrets (key_id);

-- One row: slot is always 'current'.
CREATE TABLE root_key (
    slot   TEXT   NOT NULL PRIMARY KEY,
    kid    TEXT   NOT NULL,
    digest BLOB   NOT NULL,
    pepper TEXT   NOT NULL,
    set_at BIGINT NOT NULL
);

-- body holds the hashed bytes; the other columns repeat them for filters, and
-- a verification compares the two.
CREATE TABLE audit_events (
    chain            TEXT   NOT NULL,
    seq              BIGINT NOT NULL,
    id               TEXT   NOT NULL,
    at               BIGINT NOT NULL,
    actor_type       TEXT   NOT NULL,
    actor_id         TEXT   NOT NULL,
    actor_credential TEXT   NOT NULL,
    actor_username   TEXT   NOT NULL,
    actor_ip         TEXT   NOT NULL,
    action           TEXT   NOT NULL,
    resource_type    TEXT   NOT NULL,
    resource_name    TEXT   NOT NULL,
    resource_id      TEXT   NOT NULL,
    outcome          TEXT   NOT NULL,
    reason           TEXT   NOT NULL,
    changes          TEXT   NOT NULL,
    request_id       TEXT   NOT NULL,
    prev_hash        BLOB   NOT NULL,
    hash             BLOB   NOT NULL,
    body             BLOB   NOT NULL,
    PRIMARY KEY (chain, seq)
);

CREATE UNIQUE INDEX audit_events_by_id ON audit_events (id);

-- The end of each chain, under a MAC whose key lies outside the database.
CREATE TABLE audit_heads (
    chain TEXT   NOT NULL PRIMARY KEY,
    seq   BIGINT NOT NULL,
    hash  BLOB   NOT NULL,
    mac   BLOB   NOT NULL
);

-- Replies kept for requests with an Idempotency-Key; sealed, for they may show
-- a secret. id is a hash of the key and what it is bound to.
CREATE TABLE replies (
    id      BLOB   NOT NULL PRIMARY KEY,
    body    BLOB   NOT NULL,
    sealed  BLOB   NOT NULL,
    ends_at BIGINT NOT NULL
);

CREATE INDEX replies_by_end ON replies (ends_at);
