-- +goose Up
-- Templates of what may be asked for. body is the template as JSON.
CREATE TABLE access_templates (
    id          TEXT   NOT NULL PRIMARY KEY,
    customer_id TEXT   NOT NULL REFERENCES customers (id),
    app_id      TEXT   NOT NULL REFERENCES applications (id),
    name        TEXT   NOT NULL,
    version     BIGINT NOT NULL,
    body        TEXT   NOT NULL
);

CREATE INDEX access_templates_by_name ON access_templates (customer_id, name, id);

-- What a template names, and what for that reason cannot be deleted: kind is
-- group, entitlement or task.
CREATE TABLE access_template_refs (
    template_id TEXT NOT NULL REFERENCES access_templates (id),
    kind        TEXT NOT NULL,
    ref_id      TEXT NOT NULL,
    customer_id TEXT NOT NULL,
    PRIMARY KEY (template_id, kind, ref_id)
);

CREATE INDEX access_template_refs_by_ref ON access_template_refs (customer_id, kind, ref_id);

-- Whose turn it was last among the approvers of a template: a place, no index.
CREATE TABLE access_places (
    template_id TEXT   NOT NULL PRIMARY KEY REFERENCES access_templates (id),
    customer_id TEXT   NOT NULL,
    group_id    TEXT   NOT NULL,
    added_at    BIGINT NOT NULL,
    person_id   TEXT   NOT NULL
);

-- Requests. status is what is written down; ends_at is when it turns expired by
-- itself, never for one that has ended. body is everything else as JSON, and last,
-- so that what looks for rows need not read it.
CREATE TABLE access_requests (
    id              TEXT   NOT NULL PRIMARY KEY,
    customer_id     TEXT   NOT NULL REFERENCES customers (id),
    template_id     TEXT   NOT NULL, -- '' once the template was deleted
    requester_id    TEXT   NOT NULL,
    requester_email TEXT   NOT NULL, -- in lower case
    beneficiary_id  TEXT   NOT NULL,
    submitted_by    TEXT   NOT NULL, -- id of the access key that did, else ''
    status          TEXT   NOT NULL,
    created_at      BIGINT NOT NULL,
    ends_at         BIGINT NOT NULL,
    escalates_at    BIGINT NOT NULL,
    recheck_at      BIGINT NOT NULL,
    pending_key     TEXT   NOT NULL, -- '' once it is not pending
    lease           TEXT   NOT NULL, -- who runs the task that must succeed first
    lease_until     BIGINT NOT NULL,
    trigger_failure TEXT   NOT NULL,
    version         BIGINT NOT NULL,
    body            TEXT   NOT NULL
);

CREATE UNIQUE INDEX access_requests_pending ON access_requests (customer_id, pending_key) WHERE pending_key <> '';
CREATE INDEX access_requests_by_creation ON access_requests (customer_id, created_at, id);
CREATE INDEX access_requests_by_status ON access_requests (customer_id, status, created_at, id);
CREATE INDEX access_requests_by_template ON access_requests (customer_id, template_id, created_at, id);
CREATE INDEX access_requests_by_email ON access_requests (customer_id, requester_email, created_at, id);
CREATE INDEX access_requests_by_requester ON access_requests (customer_id, requester_id, created_at, id);
CREATE INDEX access_requests_by_beneficiary ON access_requests (customer_id, beneficiary_id, created_at, id);
CREATE INDEX access_requests_by_submitter ON access_requests (customer_id, submitted_by, created_at, id) WHERE submitted_by <> '';
CREATE INDEX access_requests_by_end ON access_requests (ends_at) WHERE ends_at < 9223372036854775807;
CREATE INDEX access_requests_by_escalation ON access_requests (escalates_at) WHERE escalates_at < 9223372036854775807;
CREATE INDEX access_requests_by_recheck ON access_requests (recheck_at) WHERE recheck_at < 9223372036854775807;

-- How many requests there are of each e-mail address: what a part of one finds.
CREATE TABLE access_requesters (
    customer_id TEXT   NOT NULL,
    email       TEXT   NOT NULL,
    requests    BIGINT NOT NULL,
    PRIMARY KEY (customer_id, email)
);

-- Which groups may decide on a pending request; '' stands for admins.
CREATE TABLE access_awaited (
    request_id  TEXT   NOT NULL REFERENCES access_requests (id),
    group_id    TEXT   NOT NULL,
    customer_id TEXT   NOT NULL,
    created_at  BIGINT NOT NULL,
    PRIMARY KEY (request_id, group_id)
);

CREATE INDEX access_awaited_by_group ON access_awaited (customer_id, group_id, created_at, request_id);

-- The discussion of a request.
CREATE TABLE access_messages (
    id           TEXT   NOT NULL PRIMARY KEY,
    request_id   TEXT   NOT NULL REFERENCES access_requests (id),
    customer_id  TEXT   NOT NULL,
    author_id    TEXT   NOT NULL,
    author_email TEXT   NOT NULL,
    author_name  TEXT   NOT NULL,
    body         TEXT   NOT NULL,
    created_at   BIGINT NOT NULL
);

CREATE INDEX access_messages_by_request ON access_messages (request_id, created_at, id);
