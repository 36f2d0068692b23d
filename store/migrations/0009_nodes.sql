-- +goose Up
-- What the nodes that follow a customer last said of themselves, for the other
-- servers of the record. Rows of nodes that are long gone are swept.
CREATE TABLE nodes (
    customer_id TEXT   NOT NULL,
    node        TEXT   NOT NULL,
    epoch       BIGINT NOT NULL,
    seq         BIGINT NOT NULL, -- the change up to which it has applied all
    seen_at     BIGINT NOT NULL,
    PRIMARY KEY (customer_id, node)
);
