-- +goose Up
-- What is run when something happens to a request for access: a script, or a
-- request to a URL. Names are a customer's own.
CREATE TABLE tasks (
    id          TEXT   NOT NULL PRIMARY KEY,
    customer_id TEXT   NOT NULL REFERENCES customers (id),
    name        TEXT   NOT NULL,
    type        TEXT   NOT NULL, -- script or webhook
    script      TEXT   NOT NULL, -- '' for a webhook
    url         TEXT   NOT NULL, -- '' for a script
    secrets     TEXT   NOT NULL, -- canonical JSON: names that the script may read
    max_retries BIGINT NOT NULL,
    created_at  BIGINT NOT NULL,
    updated_at  BIGINT NOT NULL,
    version     BIGINT NOT NULL
);

CREATE UNIQUE INDEX tasks_by_name ON tasks (customer_id, name);

-- One run of a task, once for each event of the customer's chain: seq is the
-- event's, 0 for a run before the change. A run that is being made is due again
-- once its process should have finished; attempts is what tells that process from
-- the next. What a task printed is kept without the secrets that it was given.
CREATE TABLE task_runs (
    id          TEXT   NOT NULL PRIMARY KEY,
    customer_id TEXT   NOT NULL REFERENCES customers (id),
    task_id     TEXT   NOT NULL,
    source      TEXT   NOT NULL, -- template or subscription
    seq         BIGINT NOT NULL,
    event       TEXT   NOT NULL, -- created, approved, …
    request_id  TEXT   NOT NULL, -- of the access request
    mode        TEXT   NOT NULL, -- ignore, retry or block
    status      TEXT   NOT NULL, -- queued, running, succeeded or failed
    attempts    BIGINT NOT NULL,
    next_at     BIGINT NOT NULL,
    started_at  BIGINT NOT NULL, -- the last attempt; 0 for none
    ended_at    BIGINT NOT NULL, -- likewise
    output      TEXT   NOT NULL,
    cut         BIGINT NOT NULL, -- 1 where there was more of it
    result      TEXT   NOT NULL,
    error       TEXT   NOT NULL,
    created_at  BIGINT NOT NULL
);

CREATE UNIQUE INDEX task_runs_once ON task_runs (task_id, seq) WHERE seq > 0;
CREATE INDEX task_runs_due ON task_runs (next_at) WHERE status IN ('queued', 'running');
CREATE INDEX task_runs_by_task ON task_runs (task_id, created_at, id);
CREATE INDEX task_runs_by_end ON task_runs (ended_at);

-- How far the events of a customer have been made runs of. What happened before
-- there were tasks runs none.
CREATE TABLE task_cursors (
    customer_id TEXT   NOT NULL PRIMARY KEY REFERENCES customers (id),
    seq         BIGINT NOT NULL
);

INSERT INTO task_cursors (customer_id, seq) SELECT id, seq FROM customers WHERE id <> '_system';
