-- Time limits of model providers, and the number of times that a call is repeated.
ALTER TABLE model_providers ADD COLUMN timeout_seconds BIGINT;
ALTER TABLE model_providers ADD COLUMN retries BIGINT NOT NULL DEFAULT 0;
