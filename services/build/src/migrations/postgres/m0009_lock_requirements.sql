-- The requirements of a lock are kept beside their digest, so that those which are like them, but for a few, keep its
-- versions. Those of earlier locks are not known.
ALTER TABLE locks ADD COLUMN requirements_text TEXT NOT NULL DEFAULT '';
