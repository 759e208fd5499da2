-- Deployments have a place in the order in which they were accepted, whatever the clock said meanwhile.
ALTER TABLE deployments ADD COLUMN place INTEGER;

-- The order of existing rows is known from their ids only.
UPDATE deployments SET place = ordered.place
    FROM (SELECT id, row_number() OVER (ORDER BY id) AS place FROM deployments) AS ordered
    WHERE ordered.id = deployments.id;
CREATE INDEX deployments_by_place ON deployments (place);

-- In the transaction that accepts it; there is one writer at a time.
CREATE TRIGGER deployment_has_a_place AFTER INSERT ON deployments
    BEGIN UPDATE deployments SET place = (SELECT COALESCE(MAX(place), 0) + 1 FROM deployments)
        WHERE id = NEW.id; END;
