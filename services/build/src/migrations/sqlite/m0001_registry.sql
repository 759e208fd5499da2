-- The tables of the image registry.
CREATE TABLE registry_manifests (
    repo TEXT NOT NULL, digest TEXT NOT NULL, media_type TEXT NOT NULL, bytes BLOB NOT NULL,
    pushed_at BIGINT NOT NULL, PRIMARY KEY (repo, digest));
CREATE TABLE registry_tags (
    repo TEXT NOT NULL, tag TEXT NOT NULL, digest TEXT NOT NULL, immutable BOOLEAN NOT NULL,
    PRIMARY KEY (repo, tag));
CREATE TABLE registry_blobs (
    repo TEXT NOT NULL, digest TEXT NOT NULL, linked_at BIGINT NOT NULL, PRIMARY KEY (repo, digest));
