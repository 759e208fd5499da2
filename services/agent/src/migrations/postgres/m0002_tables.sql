-- Agents and their revisions. Texts are compared byte by byte, as everywhere.
CREATE TABLE agents (
    name TEXT COLLATE "C" NOT NULL PRIMARY KEY,
    desired_revision TEXT,
    active_revision TEXT,
    created_at BIGINT NOT NULL,
    updated_at BIGINT NOT NULL,
    last_number BIGINT NOT NULL DEFAULT 0,
    stopped BOOLEAN NOT NULL DEFAULT FALSE
);

CREATE TABLE revisions (
    id TEXT COLLATE "C" NOT NULL PRIMARY KEY,
    agent TEXT COLLATE "C" NOT NULL,
    operation TEXT,
    spec BYTEA NOT NULL,
    token BYTEA NOT NULL,
    phase TEXT NOT NULL,
    message TEXT NOT NULL,
    failure TEXT,
    image_digest TEXT,
    layers TEXT NOT NULL,
    python TEXT,
    entry_point TEXT,
    created_at BIGINT NOT NULL,
    public_id TEXT COLLATE "C" NOT NULL DEFAULT '',
    number BIGINT NOT NULL DEFAULT 0,
    reason TEXT NOT NULL DEFAULT 'deploy',
    deployment TEXT,
    derived_from BIGINT,
    served_at BIGINT,
    image_layout TEXT
);
CREATE INDEX revisions_agent ON revisions (agent, created_at);
CREATE INDEX revisions_number ON revisions (agent, number);
