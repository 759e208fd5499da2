//! The registry's migrations, written out rather than taken from the entities, which may change later; a migration
//! never does.

use async_trait::async_trait;
use sea_orm::{ConnectionTrait, DbErr};
use sea_orm_migration::{MigrationName, MigrationTrait, SchemaManager};

/// Makes the registry's tables.
pub struct Migration;

impl MigrationName for Migration {
    fn name(&self) -> &str {
        "m0001_registry"
    }
}

#[async_trait]
impl MigrationTrait for Migration {
    async fn up(&self, manager: &SchemaManager) -> Result<(), DbErr> {
        let tables = "
            CREATE TABLE registry_manifests (
                repo TEXT NOT NULL, digest TEXT NOT NULL, media_type TEXT NOT NULL, bytes BLOB NOT NULL,
                pushed_at BIGINT NOT NULL, PRIMARY KEY (repo, digest));
            CREATE TABLE registry_tags (
                repo TEXT NOT NULL, tag TEXT NOT NULL, digest TEXT NOT NULL, immutable BOOLEAN NOT NULL,
                PRIMARY KEY (repo, tag));
            CREATE TABLE registry_blobs (
                repo TEXT NOT NULL, digest TEXT NOT NULL, linked_at BIGINT NOT NULL, PRIMARY KEY (repo, digest));";
        manager.get_connection().execute_unprepared(tables).await.map(drop)
    }
}

/// Adds what each manifest refers to, when everything was used last, and which images agents use.
pub struct ReferencesMigration;

impl MigrationName for ReferencesMigration {
    fn name(&self) -> &str {
        "m0002_registry_references"
    }
}

#[async_trait]
impl MigrationTrait for ReferencesMigration {
    async fn up(&self, manager: &SchemaManager) -> Result<(), DbErr> {
        // Manifests that were pushed before are read by SQLite itself; they were checked when they came.
        let tables = "
            ALTER TABLE registry_manifests ADD COLUMN used_at BIGINT NOT NULL DEFAULT 0;
            ALTER TABLE registry_manifests ADD COLUMN subject TEXT;
            ALTER TABLE registry_manifests ADD COLUMN artifact_type TEXT;
            CREATE TABLE registry_references (
                repo TEXT NOT NULL, manifest TEXT NOT NULL, digest TEXT NOT NULL,
                PRIMARY KEY (repo, manifest, digest)) WITHOUT ROWID;
            CREATE TABLE registry_pins (
                repo TEXT NOT NULL, digest TEXT NOT NULL, pinned_at BIGINT NOT NULL,
                PRIMARY KEY (repo, digest)) WITHOUT ROWID;
            CREATE INDEX registry_references_by_digest ON registry_references (digest, repo);
            CREATE INDEX registry_blobs_by_digest ON registry_blobs (digest);
            CREATE INDEX registry_tags_by_digest ON registry_tags (repo, digest);
            CREATE INDEX registry_manifests_by_subject ON registry_manifests (repo, subject) WHERE subject IS NOT NULL;
            CREATE TEMP TABLE documents AS
                SELECT repo, digest, CAST(bytes AS TEXT) AS text FROM registry_manifests
                WHERE json_valid(CAST(bytes AS TEXT));
            INSERT OR IGNORE INTO registry_references
                SELECT repo, documents.digest, json_extract(text, '$.config.digest') FROM documents
                WHERE json_extract(text, '$.config.digest') IS NOT NULL;
            INSERT OR IGNORE INTO registry_references
                SELECT repo, documents.digest, json_extract(entry.value, '$.digest')
                FROM documents, json_each(text, '$.layers') AS entry
                WHERE json_extract(entry.value, '$.digest') IS NOT NULL;
            INSERT OR IGNORE INTO registry_references
                SELECT repo, documents.digest, json_extract(entry.value, '$.digest')
                FROM documents, json_each(text, '$.manifests') AS entry
                WHERE json_extract(entry.value, '$.digest') IS NOT NULL;
            UPDATE registry_manifests SET used_at = pushed_at;
            UPDATE registry_manifests SET
                subject = json_extract(documents.text, '$.subject.digest'),
                artifact_type = COALESCE(NULLIF(json_extract(documents.text, '$.artifactType'), ''),
                    json_extract(documents.text, '$.config.mediaType'))
                FROM documents
                WHERE documents.repo = registry_manifests.repo AND documents.digest = registry_manifests.digest;
            DROP TABLE documents;";
        manager.get_connection().execute_unprepared(tables).await.map(drop)
    }
}
