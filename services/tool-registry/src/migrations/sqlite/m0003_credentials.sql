-- Times at which credentials were set, credentials of model providers, OAuth 2.0 token endpoints, and identity
-- providers.
ALTER TABLE tools ADD COLUMN oauth2 TEXT;
ALTER TABLE tools ADD COLUMN credentials_set_at BIGINT;
UPDATE tools SET credentials_set_at = updated_at WHERE credentials IS NOT NULL;
ALTER TABLE model_providers ADD COLUMN credentials BLOB;
ALTER TABLE model_providers ADD COLUMN credentials_set_at BIGINT;
ALTER TABLE model_providers ADD COLUMN updated_at BIGINT NOT NULL DEFAULT 0;
UPDATE model_providers SET updated_at = created_at;

CREATE TABLE identity_providers (
    name TEXT NOT NULL PRIMARY KEY,
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
