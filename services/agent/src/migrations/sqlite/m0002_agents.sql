-- Agents and their revisions.
CREATE TABLE agents (
    name TEXT NOT NULL PRIMARY KEY,
    desired_revision TEXT,
    active_revision TEXT,
    created_at BIGINT NOT NULL,
    updated_at BIGINT NOT NULL
);

CREATE TABLE revisions (
    id TEXT NOT NULL PRIMARY KEY,
    agent TEXT NOT NULL,
    operation TEXT,
    spec BLOB NOT NULL,
    token BLOB NOT NULL,
    phase TEXT NOT NULL,
    message TEXT NOT NULL,
    failure TEXT,
    image_digest TEXT,
    layers TEXT NOT NULL,
    python TEXT,
    entry_point TEXT,
    created_at BIGINT NOT NULL
);
CREATE INDEX revisions_agent ON revisions (agent, created_at);
