-- +goose Up
-- What each change of a chain touched, for those that keep copies: at least one
-- row a change, so that a gap in seq is a gap in what is known. detail may tell
-- what of it changed. Old rows are swept; who needs them reads everything again.
CREATE TABLE feed (
    chain  TEXT   NOT NULL,
    seq    BIGINT NOT NULL,
    kind   TEXT   NOT NULL, -- '': the change touched nothing that is copied
    type   TEXT   NOT NULL,
    id     TEXT   NOT NULL,
    at     BIGINT NOT NULL,
    detail TEXT   NOT NULL,
    PRIMARY KEY (chain, seq, kind, type, id)
);

CREATE INDEX feed_by_time ON feed (at);
