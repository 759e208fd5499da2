-- The oldest entries of the audit log are found without reading all of it.
CREATE INDEX audit_by_time ON audit (at);
