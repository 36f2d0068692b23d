-- +goose Up
-- What of the directory has changed since a change that touched much of it.
CREATE INDEX subjects_by_version ON subjects (customer_id, version);

CREATE INDEX resources_by_version ON resources (customer_id, version);
