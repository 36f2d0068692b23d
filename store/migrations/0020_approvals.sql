-- +goose Up
-- Which request an application was told to wait for, under a digest of what it asked
-- for: a denial is told to who asks next, once.
CREATE TABLE approval_promises (
    customer_id TEXT NOT NULL REFERENCES customers (id),
    ask         TEXT NOT NULL,
    request_id  TEXT NOT NULL REFERENCES access_requests (id),
    PRIMARY KEY (customer_id, ask)
);
