-- Answers of mutating calls by operation id.
CREATE TABLE operations (
    id TEXT COLLATE "C" NOT NULL PRIMARY KEY,
    kind TEXT NOT NULL,
    payload_digest TEXT NOT NULL,
    response BYTEA,
    undone BOOLEAN NOT NULL,
    created_at BIGINT NOT NULL
);
CREATE INDEX operations_created_at ON operations (created_at);
