-- The files of each package are kept, so that those which two packages of an agent both bring are reported in whatever
-- build they were installed. What is known without them is found out once more; layers stay.
DELETE FROM packages;
DELETE FROM layer_sets;
ALTER TABLE packages ADD COLUMN files BLOB NOT NULL DEFAULT x'';
ALTER TABLE layer_sets ADD COLUMN clashes TEXT NOT NULL DEFAULT '[]';
