-- +goose Up
-- Secrets of customers that are used, and so cannot be kept as digests: sealed
-- under the key key_id, which lies outside the database, and bound to the first
-- four columns. The row of '_system' is there to find out whether a server has
-- that key before there is anything to open.
CREATE TABLE sealed_secrets (
    customer_id TEXT   NOT NULL REFERENCES customers (id),
    kind        TEXT   NOT NULL, -- webhook, task, …
    owner       TEXT   NOT NULL, -- id of the record that it belongs to; '' for the customer
    name        TEXT   NOT NULL,
    key_id      TEXT   NOT NULL,
    box         BLOB   NOT NULL,
    created_at  BIGINT NOT NULL,
    ends_at     BIGINT NOT NULL,
    PRIMARY KEY (customer_id, kind, owner, name)
);

CREATE INDEX sealed_secrets_by_key ON sealed_secrets (key_id);

-- Who is told of events: a URL, or a task. since is the sequence number of the
-- change that made it: earlier events are not told.
CREATE TABLE webhooks (
    id          TEXT   NOT NULL PRIMARY KEY,
    customer_id TEXT   NOT NULL REFERENCES customers (id),
    url         TEXT   NOT NULL, -- '' for a task
    task_id     TEXT   NOT NULL, -- '' for a URL
    events      TEXT   NOT NULL, -- canonical JSON: list of types
    headers     TEXT   NOT NULL, -- canonical JSON: list of names; values are sealed
    compat      TEXT   NOT NULL, -- '' or indent
    description TEXT   NOT NULL,
    since       BIGINT NOT NULL,
    created_at  BIGINT NOT NULL,
    version     BIGINT NOT NULL
);

CREATE INDEX webhooks_by_customer ON webhooks (customer_id, created_at, id);
CREATE INDEX webhooks_by_task ON webhooks (task_id) WHERE task_id <> '';

-- One event for one webhook, or for one person by e-mail. What is sent is made of
-- the event seq of the customer's chain, which never changes. A delivery that is
-- being attempted is due again once its sender should have finished; attempts is
-- what tells that sender from the next.
CREATE TABLE deliveries (
    id           TEXT   NOT NULL PRIMARY KEY,
    customer_id  TEXT   NOT NULL REFERENCES customers (id),
    channel      TEXT   NOT NULL, -- webhook, email
    target       TEXT   NOT NULL, -- id of the webhook; 'email:' and the customer
    recipient    TEXT   NOT NULL, -- id of the person; '' where it is no person
    seq          BIGINT NOT NULL,
    event        TEXT   NOT NULL, -- access_request.submitted, …
    event_at     BIGINT NOT NULL,
    request_id   TEXT   NOT NULL, -- of the access request
    status       TEXT   NOT NULL, -- pending, delivered, dead
    attempts     BIGINT NOT NULL, -- that have begun
    next_at      BIGINT NOT NULL,
    ends_at      BIGINT NOT NULL, -- no attempt begins later
    attempted_at BIGINT NOT NULL, -- the last one; 0 for none
    result       TEXT   NOT NULL, -- of the last one: ok, or why it failed; '' for none
    reply_status BIGINT NOT NULL, -- HTTP status of the last reply; 0 for none
    reply_head   TEXT   NOT NULL, -- how its body begins, redacted
    created_at   BIGINT NOT NULL
);

CREATE UNIQUE INDEX deliveries_once ON deliveries (target, seq, recipient);
CREATE INDEX deliveries_due ON deliveries (target, next_at) WHERE status = 'pending';
CREATE INDEX deliveries_by_creation ON deliveries (created_at);

-- How far the events of a customer have been made deliveries of. What happened
-- before there were any is told to nobody.
CREATE TABLE delivery_cursors (
    customer_id TEXT   NOT NULL PRIMARY KEY REFERENCES customers (id),
    seq         BIGINT NOT NULL
);

INSERT INTO delivery_cursors (customer_id, seq) SELECT id, seq FROM customers WHERE id <> '_system';
