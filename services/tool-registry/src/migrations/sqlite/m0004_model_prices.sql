-- Prices of models.
ALTER TABLE model_providers ADD COLUMN prices TEXT NOT NULL DEFAULT '{}';
