-- The last id of a call, which need not be there any more, under the name that it has on every engine.
CREATE VIEW call_ids AS SELECT seq AS last FROM sqlite_sequence WHERE name = 'calls';
