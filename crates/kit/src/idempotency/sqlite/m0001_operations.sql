-- Answers of mutating calls by operation id.
CREATE TABLE operations (
    id VARCHAR NOT NULL PRIMARY KEY,
    kind VARCHAR NOT NULL,
    payload_digest VARCHAR NOT NULL,
    response BLOB,
    undone BOOLEAN NOT NULL,
    created_at INTEGER NOT NULL
);
CREATE INDEX operations_created_at ON operations (created_at);
