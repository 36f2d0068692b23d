-- +goose Up
-- Persons who were shown a secret of an access key: who decides with it counts as
-- each of them.
CREATE TABLE access_key_persons (
    key_id      TEXT NOT NULL REFERENCES access_keys (id),
    person_id   TEXT NOT NULL REFERENCES persons (id),
    customer_id TEXT NOT NULL,
    PRIMARY KEY (key_id, person_id)
);
