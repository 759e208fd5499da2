-- References of each manifest, times of last use, and the images that agents use. SQLite itself reads the manifests that
-- were pushed before; they were checked when they came.
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
DROP TABLE documents;
