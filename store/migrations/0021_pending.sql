-- +goose Up
-- How many requests somebody has pending is counted at every further one.
CREATE INDEX access_requests_pending_of ON access_requests (customer_id, requester_id) WHERE pending_key <> '';
