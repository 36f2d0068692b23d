-- +goose Up
-- One row: slot is always 'current'. epoch names the incarnation of the record:
-- the instant at which it began, or was put back from a backup. keyring is the
-- fingerprint of the secrets that its servers share, empty where nobody tells.
CREATE TABLE installation (
    slot    TEXT   NOT NULL PRIMARY KEY,
    epoch   BIGINT NOT NULL,
    keyring TEXT   NOT NULL
);
