-- API keys, and the audit log of changes.
CREATE TABLE api_keys (
    id TEXT NOT NULL PRIMARY KEY, name TEXT NOT NULL, prefix TEXT NOT NULL, hash TEXT NOT NULL, scopes TEXT NOT NULL,
    created_at BIGINT NOT NULL, created_by TEXT NOT NULL, expires_at BIGINT, revoked_at BIGINT, last_used_at BIGINT);
CREATE INDEX api_keys_by_prefix ON api_keys (prefix);

CREATE TABLE audit (
    id TEXT NOT NULL PRIMARY KEY, at BIGINT NOT NULL, key_id TEXT NOT NULL, key_name TEXT NOT NULL,
    action TEXT NOT NULL, target TEXT, deployment TEXT, address TEXT, user_agent TEXT, request_id TEXT NOT NULL,
    outcome TEXT NOT NULL, status INTEGER, code TEXT);
CREATE INDEX audit_by_target ON audit (target, id);
CREATE INDEX audit_by_key ON audit (key_id, id);
CREATE INDEX audit_by_action ON audit (action, id);
CREATE INDEX audit_by_deployment ON audit (deployment);

-- A row is added, and its outcome is written once.
CREATE TRIGGER audit_is_kept BEFORE UPDATE ON audit
    WHEN OLD.outcome <> 'pending' OR OLD.id <> NEW.id OR OLD.at <> NEW.at OR OLD.key_id <> NEW.key_id
        OR OLD.action <> NEW.action OR OLD.request_id <> NEW.request_id
    BEGIN SELECT RAISE(ABORT, 'the audit log is append-only'); END;
