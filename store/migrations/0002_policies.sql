-- +goose Up
-- A policy's row tells of its latest version; the documents of the last
-- versions are beside it. id is the record's own: a policy that is deleted and
-- made again under its name is another record, whose versions begin at 1.
CREATE TABLE policies (
    id          TEXT   NOT NULL PRIMARY KEY,
    customer_id TEXT   NOT NULL REFERENCES customers (id),
    name        TEXT   NOT NULL,
    language    TEXT   NOT NULL,
    description TEXT   NOT NULL,
    version     BIGINT NOT NULL,
    created_at  BIGINT NOT NULL,
    updated_at  BIGINT NOT NULL
);

CREATE UNIQUE INDEX policies_by_name ON policies (customer_id, name);

CREATE TABLE policy_versions (
    policy_id   TEXT   NOT NULL REFERENCES policies (id),
    version     BIGINT NOT NULL,
    language    TEXT   NOT NULL,
    document    TEXT   NOT NULL, -- canonical JSON
    created_at  BIGINT NOT NULL,
    author_type TEXT   NOT NULL, -- as events name their actor
    author_id   TEXT   NOT NULL,
    PRIMARY KEY (policy_id, version)
);

-- The name of the policy that decides where none is asked for; empty is the
-- built-in one.
ALTER TABLE customers ADD COLUMN default_policy TEXT NOT NULL DEFAULT '';
