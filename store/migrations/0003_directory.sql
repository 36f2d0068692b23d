-- +goose Up
-- What customers tell of their subjects and resources; version is the sequence
-- number of the last change.

CREATE TABLE subjects (
    customer_id TEXT   NOT NULL REFERENCES customers (id),
    type        TEXT   NOT NULL,
    id          TEXT   NOT NULL,
    properties  TEXT   NOT NULL, -- canonical JSON
    version     BIGINT NOT NULL,
    PRIMARY KEY (customer_id, type, id)
);

CREATE TABLE resources (
    customer_id  TEXT   NOT NULL REFERENCES customers (id),
    kind         TEXT   NOT NULL,
    id           TEXT   NOT NULL,
    display_name TEXT   NOT NULL,
    labels       TEXT   NOT NULL, -- canonical JSON
    properties   TEXT   NOT NULL, -- canonical JSON
    version      BIGINT NOT NULL,
    PRIMARY KEY (customer_id, kind, id)
);

-- A label a row, for exact filters.
CREATE TABLE resource_labels (
    customer_id TEXT NOT NULL,
    kind        TEXT NOT NULL,
    id          TEXT NOT NULL,
    name        TEXT NOT NULL,
    value       TEXT NOT NULL,
    PRIMARY KEY (customer_id, kind, id, name),
    FOREIGN KEY (customer_id, kind, id) REFERENCES resources (customer_id, kind, id)
);

CREATE INDEX resource_labels_by_value ON resource_labels (customer_id, name, value, kind, id);

-- The actions that a type has, for search.
CREATE TABLE resource_types (
    customer_id TEXT   NOT NULL REFERENCES customers (id),
    type        TEXT   NOT NULL,
    actions     TEXT   NOT NULL, -- JSON array of names, in the order given
    version     BIGINT NOT NULL,
    PRIMARY KEY (customer_id, type)
);
