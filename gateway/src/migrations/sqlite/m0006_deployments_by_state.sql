-- Deployments of a status are found without reading all of them.
CREATE INDEX deployments_by_state ON deployments (state, id);
