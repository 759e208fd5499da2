-- Builds, kept locks and known dependency layers.
CREATE TABLE builds (
    attempt TEXT NOT NULL PRIMARY KEY, public_id TEXT NOT NULL, agent TEXT NOT NULL, status TEXT NOT NULL,
    inputs TEXT NOT NULL, repository TEXT, tag TEXT, digest TEXT, entry_point TEXT, error TEXT,
    log TEXT NOT NULL, created_at BIGINT NOT NULL, completed_at BIGINT NOT NULL);
CREATE INDEX builds_by_public_id ON builds (public_id);
CREATE INDEX builds_by_inputs ON builds (inputs);
CREATE TABLE locks (
    agent TEXT NOT NULL, requirements TEXT NOT NULL, interpreter TEXT NOT NULL, lock TEXT NOT NULL,
    created_at BIGINT NOT NULL, PRIMARY KEY (agent, requirements, interpreter));
CREATE TABLE dependency_layers (
    inputs TEXT NOT NULL PRIMARY KEY, digest TEXT NOT NULL, diff_id TEXT NOT NULL, size BIGINT NOT NULL,
    created_at BIGINT NOT NULL);
