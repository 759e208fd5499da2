-- A layer for each package instead of one for each lock. The old layers' records are of no use any more.
CREATE TABLE packages (inputs TEXT NOT NULL PRIMARY KEY, size BIGINT NOT NULL, created_at BIGINT NOT NULL);
CREATE TABLE layer_sets (inputs TEXT NOT NULL PRIMARY KEY, layers TEXT NOT NULL, created_at BIGINT NOT NULL);
DELETE FROM dependency_layers;
