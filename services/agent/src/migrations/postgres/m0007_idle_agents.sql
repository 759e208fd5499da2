-- Agents that are stopped until their next invoke.
ALTER TABLE agents ADD COLUMN idle BOOLEAN NOT NULL DEFAULT FALSE;
