-- The reason for which egress refused a call.
ALTER TABLE calls ADD COLUMN error TEXT;
