-- The journal of deployments.
CREATE TABLE deployments (
    id TEXT NOT NULL PRIMARY KEY,
    agent TEXT NOT NULL,
    state TEXT NOT NULL,
    log TEXT NOT NULL,
    request BLOB NULL,
    warnings TEXT NOT NULL,
    failure TEXT NULL,
    created_at INTEGER NOT NULL,
    completed_at INTEGER NULL
);
CREATE INDEX deployments_by_agent ON deployments (agent, id);
CREATE INDEX deployments_by_end ON deployments (completed_at);
