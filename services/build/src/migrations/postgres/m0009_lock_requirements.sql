-- The requirements of a lock are kept beside their digest, so that others can be compared with them; those of earlier
-- locks are not known. A build says which lock it has, so that the one of what was built or reused last can be found.
ALTER TABLE locks ADD COLUMN requirements_text TEXT NOT NULL DEFAULT '';
ALTER TABLE builds ADD COLUMN lock_requirements TEXT COLLATE "C";
ALTER TABLE builds ADD COLUMN lock_interpreter TEXT COLLATE "C";
