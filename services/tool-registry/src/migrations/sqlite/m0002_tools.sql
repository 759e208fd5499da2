-- Tools, bindings, model providers, and the effects of deploys on them.
CREATE TABLE tools (
    name TEXT NOT NULL PRIMARY KEY,
    description TEXT NOT NULL,
    base_url TEXT NOT NULL,
    port INTEGER NOT NULL,
    scheme TEXT NOT NULL,
    auth_type TEXT NOT NULL,
    api_key_location TEXT,
    api_key_name TEXT,
    api_key_prefix TEXT,
    labels TEXT NOT NULL,
    credentials BLOB,
    builtin TEXT,
    created_by_operation TEXT,
    written_by_operation TEXT NOT NULL,
    created_at BIGINT NOT NULL,
    updated_at BIGINT NOT NULL
);

CREATE TABLE bindings (
    agent TEXT NOT NULL,
    tool TEXT NOT NULL,
    operation TEXT NOT NULL,
    settled BOOLEAN NOT NULL,
    PRIMARY KEY (agent, tool, operation)
);
CREATE INDEX bindings_tool ON bindings (tool);

CREATE TABLE applications (
    operation TEXT NOT NULL PRIMARY KEY,
    agent TEXT NOT NULL,
    effects TEXT NOT NULL,
    settled BOOLEAN NOT NULL,
    created_at BIGINT NOT NULL
);

CREATE TABLE model_providers (
    name TEXT NOT NULL PRIMARY KEY,
    provider TEXT NOT NULL,
    endpoint TEXT NOT NULL,
    models TEXT NOT NULL,
    labels TEXT NOT NULL,
    created_at BIGINT NOT NULL
);
