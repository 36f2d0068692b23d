-- +goose Up
-- Rights that subjects hold for a while. A row is never deleted: what ended
-- keeps its ends.
CREATE TABLE grants (
    id           TEXT   NOT NULL PRIMARY KEY,
    customer_id  TEXT   NOT NULL REFERENCES customers (id),
    subject_type TEXT   NOT NULL,
    subject_id   TEXT   NOT NULL,
    entries      TEXT   NOT NULL, -- canonical JSON: resource type → entries
    reason       TEXT   NOT NULL,
    not_before   BIGINT NOT NULL,
    expires_at   BIGINT NOT NULL,
    revoked_at   BIGINT NOT NULL,
    created_at   BIGINT NOT NULL,
    author_type  TEXT   NOT NULL, -- as events name their actor
    author_id    TEXT   NOT NULL,
    version      BIGINT NOT NULL
);

CREATE INDEX grants_by_subject ON grants (customer_id, subject_type, subject_id, expires_at);
CREATE INDEX grants_by_creation ON grants (customer_id, created_at, id);
