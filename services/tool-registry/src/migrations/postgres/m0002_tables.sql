-- Tools, bindings, model and identity providers, and the effects of deploys on tools. Texts are compared byte by byte,
-- as everywhere.
CREATE TABLE tools (
    name TEXT COLLATE "C" NOT NULL PRIMARY KEY,
    description TEXT NOT NULL,
    base_url TEXT NOT NULL,
    port INTEGER NOT NULL,
    scheme TEXT NOT NULL,
    auth_type TEXT NOT NULL,
    api_key_location TEXT,
    api_key_name TEXT,
    api_key_prefix TEXT,
    labels TEXT NOT NULL,
    credentials BYTEA,
    builtin TEXT,
    created_by_operation TEXT,
    written_by_operation TEXT NOT NULL,
    created_at BIGINT NOT NULL,
    updated_at BIGINT NOT NULL,
    oauth2 TEXT,
    credentials_set_at BIGINT
);

CREATE TABLE bindings (
    agent TEXT COLLATE "C" NOT NULL,
    tool TEXT COLLATE "C" NOT NULL,
    operation TEXT COLLATE "C" NOT NULL,
    settled BOOLEAN NOT NULL,
    PRIMARY KEY (agent, tool, operation)
);
CREATE INDEX bindings_tool ON bindings (tool);

CREATE TABLE applications (
    operation TEXT COLLATE "C" NOT NULL PRIMARY KEY,
    agent TEXT NOT NULL,
    effects TEXT NOT NULL,
    settled BOOLEAN NOT NULL,
    created_at BIGINT NOT NULL
);

CREATE TABLE model_providers (
    name TEXT COLLATE "C" NOT NULL PRIMARY KEY,
    provider TEXT NOT NULL,
    endpoint TEXT NOT NULL,
    models TEXT NOT NULL,
    labels TEXT NOT NULL,
    created_at BIGINT NOT NULL,
    credentials BYTEA,
    credentials_set_at BIGINT,
    updated_at BIGINT NOT NULL DEFAULT 0,
    prices TEXT NOT NULL DEFAULT '{}',
    timeout_seconds BIGINT,
    retries BIGINT NOT NULL DEFAULT 0
);

CREATE TABLE identity_providers (
    name TEXT COLLATE "C" NOT NULL PRIMARY KEY,
    host TEXT NOT NULL,
    issuer TEXT NOT NULL,
    jwks_uri TEXT NOT NULL,
    audiences TEXT NOT NULL,
    user_id_claim TEXT NOT NULL,
    allowed_domains TEXT NOT NULL,
    labels TEXT NOT NULL,
    created_at BIGINT NOT NULL,
    updated_at BIGINT NOT NULL
);
