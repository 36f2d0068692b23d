-- +goose Up
-- People, what proves them, the groups that they are in, and what groups and
-- templates give. Ids are UUIDs. A person is found by id, by username, or by an
-- e-mail address in lower case; '' is no address.
CREATE TABLE persons (
    id          TEXT   NOT NULL PRIMARY KEY,
    customer_id TEXT   NOT NULL REFERENCES customers (id),
    username    TEXT   NOT NULL,
    email       TEXT   NOT NULL,
    name        TEXT   NOT NULL,
    type        TEXT   NOT NULL, -- user, admin, internal_admin
    active      BIGINT NOT NULL, -- 0 or 1
    created_at  BIGINT NOT NULL,
    version     BIGINT NOT NULL
);

CREATE UNIQUE INDEX persons_by_username ON persons (customer_id, username);
CREATE UNIQUE INDEX persons_by_email ON persons (customer_id, email) WHERE email <> '';
CREATE INDEX persons_by_creation ON persons (customer_id, created_at, id);

-- Personal tokens, and the claim code by which a person comes by the first.
CREATE TABLE person_secrets (
    kid         TEXT   NOT NULL PRIMARY KEY,
    id          TEXT   NOT NULL,
    person_id   TEXT   NOT NULL REFERENCES persons (id),
    customer_id TEXT   NOT NULL REFERENCES customers (id),
    kind        TEXT   NOT NULL, -- token, claim
    name        TEXT   NOT NULL,
    digest      BLOB   NOT NULL,
    pepper      TEXT   NOT NULL,
    created_at  BIGINT NOT NULL,
    ends_at     BIGINT NOT NULL
);

CREATE INDEX person_secrets_by_person ON person_secrets (person_id, kind, ends_at);

-- Who a person is at an issuer of OIDC tokens.
CREATE TABLE person_identities (
    customer_id TEXT   NOT NULL REFERENCES customers (id),
    issuer      TEXT   NOT NULL,
    subject     TEXT   NOT NULL,
    person_id   TEXT   NOT NULL REFERENCES persons (id),
    linked_at   BIGINT NOT NULL,
    PRIMARY KEY (customer_id, issuer, subject)
);

CREATE INDEX person_identities_by_person ON person_identities (person_id);

CREATE TABLE applications (
    id          TEXT   NOT NULL PRIMARY KEY,
    customer_id TEXT   NOT NULL REFERENCES customers (id),
    name        TEXT   NOT NULL,
    created_at  BIGINT NOT NULL,
    version     BIGINT NOT NULL
);

CREATE UNIQUE INDEX applications_by_name ON applications (customer_id, name);

CREATE TABLE entitlements (
    id          TEXT   NOT NULL PRIMARY KEY,
    customer_id TEXT   NOT NULL REFERENCES customers (id),
    app_id      TEXT   NOT NULL REFERENCES applications (id),
    name        TEXT   NOT NULL,
    entries     TEXT   NOT NULL, -- canonical JSON: resource type → entries
    claims      TEXT   NOT NULL, -- canonical JSON: name → list of strings
    created_at  BIGINT NOT NULL,
    version     BIGINT NOT NULL
);

CREATE UNIQUE INDEX entitlements_by_name ON entitlements (app_id, name);
CREATE INDEX entitlements_by_customer ON entitlements (customer_id, created_at, id);

CREATE TABLE groups (
    id          TEXT   NOT NULL PRIMARY KEY,
    customer_id TEXT   NOT NULL REFERENCES customers (id),
    name        TEXT   NOT NULL,
    created_at  BIGINT NOT NULL,
    version     BIGINT NOT NULL
);

CREATE UNIQUE INDEX groups_by_name ON groups (customer_id, name);

-- In the order of added_at, then person_id. person_id 'bot' is the principal that
-- approves by itself, and no person.
CREATE TABLE group_members (
    group_id    TEXT   NOT NULL REFERENCES groups (id),
    person_id   TEXT   NOT NULL,
    customer_id TEXT   NOT NULL,
    added_at    BIGINT NOT NULL,
    PRIMARY KEY (group_id, person_id)
);

CREATE INDEX group_members_by_person ON group_members (customer_id, person_id);

CREATE TABLE group_entitlements (
    group_id       TEXT   NOT NULL REFERENCES groups (id),
    entitlement_id TEXT   NOT NULL REFERENCES entitlements (id),
    customer_id    TEXT   NOT NULL,
    PRIMARY KEY (group_id, entitlement_id)
);

CREATE INDEX group_entitlements_by_entitlement ON group_entitlements (entitlement_id);

-- The person that a key was made with, '' for none: it ends with the person.
ALTER TABLE access_keys ADD COLUMN person_id TEXT NOT NULL DEFAULT '';
CREATE INDEX access_keys_by_person ON access_keys (person_id) WHERE person_id <> '';

-- The request that a grant came of, '' for none, and what of entitlements it
-- gives: their ids, and the claims that token issuers ask for, by value.
ALTER TABLE grants ADD COLUMN request_id TEXT NOT NULL DEFAULT '';
ALTER TABLE grants ADD COLUMN entitlement_ids TEXT NOT NULL DEFAULT '[]';
ALTER TABLE grants ADD COLUMN claims TEXT NOT NULL DEFAULT '{}';
CREATE UNIQUE INDEX grants_by_request ON grants (request_id) WHERE request_id <> '';
