-- +goose Up
-- version counts a set's changes from 1; seq is the sequence number of the last
-- one in the customer's chain; size is the number of its values.
CREATE TABLE sets (
    id          TEXT   NOT NULL PRIMARY KEY,
    customer_id TEXT   NOT NULL REFERENCES customers (id),
    name        TEXT   NOT NULL,
    entity_type TEXT   NOT NULL,
    description TEXT   NOT NULL,
    size        BIGINT NOT NULL,
    version     BIGINT NOT NULL,
    seq         BIGINT NOT NULL,
    created_at  BIGINT NOT NULL,
    updated_at  BIGINT NOT NULL
);

CREATE UNIQUE INDEX sets_by_name ON sets (customer_id, name);

-- Canonical texts, a row each, in the order of their bytes.
CREATE TABLE set_values (
    set_id TEXT NOT NULL REFERENCES sets (id),
    value  TEXT NOT NULL,
    PRIMARY KEY (set_id, value)
);
