-- The image registry, builds, kept locks, and known packages and layers. Texts are compared byte by byte, as
-- everywhere.
CREATE TABLE registry_manifests (
    repo TEXT COLLATE "C" NOT NULL,
    digest TEXT COLLATE "C" NOT NULL,
    media_type TEXT NOT NULL,
    bytes BYTEA NOT NULL,
    pushed_at BIGINT NOT NULL,
    used_at BIGINT NOT NULL DEFAULT 0,
    subject TEXT COLLATE "C",
    artifact_type TEXT,
    PRIMARY KEY (repo, digest)
);
CREATE INDEX registry_manifests_by_subject ON registry_manifests (repo, subject) WHERE subject IS NOT NULL;

CREATE TABLE registry_tags (
    repo TEXT COLLATE "C" NOT NULL,
    tag TEXT COLLATE "C" NOT NULL,
    digest TEXT COLLATE "C" NOT NULL,
    immutable BOOLEAN NOT NULL,
    PRIMARY KEY (repo, tag)
);
CREATE INDEX registry_tags_by_digest ON registry_tags (repo, digest);

CREATE TABLE registry_blobs (
    repo TEXT COLLATE "C" NOT NULL,
    digest TEXT COLLATE "C" NOT NULL,
    linked_at BIGINT NOT NULL,
    PRIMARY KEY (repo, digest)
);
CREATE INDEX registry_blobs_by_digest ON registry_blobs (digest);

CREATE TABLE registry_references (
    repo TEXT COLLATE "C" NOT NULL,
    manifest TEXT COLLATE "C" NOT NULL,
    digest TEXT COLLATE "C" NOT NULL,
    PRIMARY KEY (repo, manifest, digest)
);
CREATE INDEX registry_references_by_digest ON registry_references (digest, repo);

CREATE TABLE registry_pins (
    repo TEXT COLLATE "C" NOT NULL,
    digest TEXT COLLATE "C" NOT NULL,
    pinned_at BIGINT NOT NULL,
    PRIMARY KEY (repo, digest)
);

CREATE TABLE builds (
    attempt TEXT COLLATE "C" NOT NULL PRIMARY KEY,
    public_id TEXT NOT NULL,
    agent TEXT COLLATE "C" NOT NULL,
    status TEXT NOT NULL,
    inputs TEXT NOT NULL,
    repository TEXT,
    tag TEXT,
    digest TEXT,
    entry_point TEXT,
    error TEXT,
    log TEXT NOT NULL,
    created_at BIGINT NOT NULL,
    completed_at BIGINT NOT NULL,
    record TEXT
);
CREATE INDEX builds_by_public_id ON builds (public_id);
CREATE INDEX builds_by_inputs ON builds (inputs);
CREATE INDEX builds_by_agent ON builds (agent, attempt);

CREATE TABLE locks (
    agent TEXT COLLATE "C" NOT NULL,
    requirements TEXT COLLATE "C" NOT NULL,
    interpreter TEXT COLLATE "C" NOT NULL,
    lock TEXT NOT NULL,
    created_at BIGINT NOT NULL,
    PRIMARY KEY (agent, requirements, interpreter)
);

CREATE TABLE dependency_layers (
    inputs TEXT COLLATE "C" NOT NULL PRIMARY KEY,
    digest TEXT COLLATE "C" NOT NULL,
    diff_id TEXT NOT NULL,
    size BIGINT NOT NULL,
    created_at BIGINT NOT NULL
);

CREATE TABLE packages (
    inputs TEXT COLLATE "C" NOT NULL PRIMARY KEY,
    size BIGINT NOT NULL,
    created_at BIGINT NOT NULL,
    files BYTEA NOT NULL DEFAULT ''
);

CREATE TABLE layer_sets (
    inputs TEXT COLLATE "C" NOT NULL PRIMARY KEY,
    layers TEXT NOT NULL,
    created_at BIGINT NOT NULL,
    clashes TEXT NOT NULL DEFAULT '[]'
);
