//! API keys, and the audit log of changes.

use sea_orm_migration::prelude::*;

#[derive(DeriveMigrationName)]
pub struct Migration;

const STATEMENTS: [&str; 11] = [
    "CREATE TABLE api_keys (
        id TEXT NOT NULL PRIMARY KEY, name TEXT NOT NULL, prefix TEXT NOT NULL, hash TEXT NOT NULL, scopes TEXT NOT NULL,
        created_at BIGINT NOT NULL, created_by TEXT NOT NULL, expires_at BIGINT, revoked_at BIGINT, last_used_at BIGINT)",
    "CREATE INDEX api_keys_by_prefix ON api_keys (prefix)",
    "CREATE TABLE audit (
        id TEXT NOT NULL PRIMARY KEY, at BIGINT NOT NULL, key_id TEXT NOT NULL, key_name TEXT NOT NULL,
        action TEXT NOT NULL, target TEXT, deployment TEXT, address TEXT, user_agent TEXT, request_id TEXT NOT NULL,
        outcome TEXT NOT NULL, status INTEGER, code TEXT)",
    "CREATE INDEX audit_by_target ON audit (target, id)",
    "CREATE INDEX audit_by_key ON audit (key_id, id)",
    "CREATE INDEX audit_by_action ON audit (action, id)",
    "CREATE INDEX audit_by_deployment ON audit (deployment)",
    // Rows are added and, once, told how it ended.
    "CREATE TRIGGER audit_is_kept BEFORE UPDATE ON audit
        WHEN OLD.outcome <> 'pending' OR OLD.id <> NEW.id OR OLD.at <> NEW.at OR OLD.key_id <> NEW.key_id
            OR OLD.action <> NEW.action OR OLD.request_id <> NEW.request_id
        BEGIN SELECT RAISE(ABORT, 'the audit log is append-only'); END",
    // A deployment carries its entry; so accepting it is one statement and one commit with its entry, and so is its end.
    "ALTER TABLE deployments ADD COLUMN audit TEXT",
    "CREATE TRIGGER deployment_is_audited AFTER INSERT ON deployments WHEN NEW.audit IS NOT NULL
        BEGIN INSERT INTO audit (id, at, key_id, key_name, action, target, deployment, address, user_agent, request_id,
                outcome, code)
            VALUES (NEW.audit ->> 'id', NEW.audit ->> 'at', NEW.audit ->> 'key_id', NEW.audit ->> 'key_name',
                NEW.audit ->> 'action', NEW.agent, NEW.id, NEW.audit ->> 'address', NEW.audit ->> 'user_agent',
                NEW.audit ->> 'request_id',
                CASE NEW.state WHEN 'SUCCEEDED' THEN 'success' WHEN 'FAILED' THEN 'failure' ELSE 'pending' END,
                NEW.failure ->> 'code'); END",
    "CREATE TRIGGER deployment_end_is_audited AFTER UPDATE OF completed_at ON deployments
        WHEN NEW.completed_at IS NOT NULL AND OLD.completed_at IS NULL
        BEGIN UPDATE audit SET outcome = CASE NEW.state WHEN 'SUCCEEDED' THEN 'success' ELSE 'failure' END,
                code = NEW.failure ->> 'code'
            WHERE deployment = NEW.id AND outcome = 'pending'; END",
];

#[async_trait::async_trait]
impl MigrationTrait for Migration {
    async fn up(&self, manager: &SchemaManager) -> Result<(), DbErr> {
        for statement in STATEMENTS {
            manager.get_connection().execute_unprepared(statement).await?;
        }
        Ok(())
    }
}
