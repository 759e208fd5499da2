-- Numbers, reasons and public ids of revisions, and agents that are stopped.
ALTER TABLE agents ADD COLUMN last_number BIGINT NOT NULL DEFAULT 0;
ALTER TABLE agents ADD COLUMN stopped BOOLEAN NOT NULL DEFAULT FALSE;
ALTER TABLE revisions ADD COLUMN public_id TEXT NOT NULL DEFAULT '';
ALTER TABLE revisions ADD COLUMN number BIGINT NOT NULL DEFAULT 0;
ALTER TABLE revisions ADD COLUMN reason TEXT NOT NULL DEFAULT 'deploy';
ALTER TABLE revisions ADD COLUMN deployment TEXT;
ALTER TABLE revisions ADD COLUMN derived_from BIGINT;
ALTER TABLE revisions ADD COLUMN served_at BIGINT;

-- Ids sort by the time they were minted.
UPDATE revisions SET public_id = id, number = (
    SELECT COUNT(*) FROM revisions AS older WHERE older.agent = revisions.agent AND older.id <= revisions.id
);
UPDATE revisions SET served_at = created_at WHERE phase IN ('ready', 'retired');
UPDATE agents SET last_number = (SELECT COUNT(*) FROM revisions WHERE revisions.agent = agents.name);
CREATE INDEX revisions_number ON revisions (agent, number);
