-- The record of a build: times of its lines, its steps, and the request that caused it.
ALTER TABLE builds ADD COLUMN record TEXT;
CREATE INDEX builds_by_agent ON builds (agent, attempt);
