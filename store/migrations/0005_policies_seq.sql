-- +goose Up
-- The sequence number of the customer's last change to what it decides by:
-- policies, sets, and the name of the default policy.
ALTER TABLE customers ADD COLUMN policies_seq BIGINT NOT NULL DEFAULT 0;

UPDATE customers SET policies_seq = seq;
