-- Records of calls.

-- An id is not used again, whatever was removed: readers go on from the last one that they have.
CREATE TABLE calls (
    id INTEGER NOT NULL PRIMARY KEY AUTOINCREMENT,
    at BIGINT NOT NULL,
    agent TEXT,
    revision TEXT,
    target_kind TEXT,
    target TEXT,
    method TEXT NOT NULL,
    origin TEXT NOT NULL,
    path TEXT NOT NULL,
    status INTEGER,
    first_byte_ms BIGINT NOT NULL,
    duration_ms BIGINT NOT NULL,
    bytes_up BIGINT NOT NULL,
    bytes_down BIGINT NOT NULL,
    refused TEXT,
    broken TEXT
);
CREATE INDEX calls_by_agent ON calls (agent, id);
CREATE INDEX calls_by_time ON calls (at);
