-- The journal writes the audit log of deployments itself.

-- A deployment carries its entry; so accepting it is one statement and one commit with its entry, and so is its end.
ALTER TABLE deployments ADD COLUMN audit TEXT;

CREATE TRIGGER deployment_is_audited AFTER INSERT ON deployments WHEN NEW.audit IS NOT NULL
    BEGIN INSERT INTO audit (id, at, key_id, key_name, action, target, deployment, address, user_agent, request_id,
            outcome, code)
        VALUES (NEW.audit ->> 'id', NEW.audit ->> 'at', NEW.audit ->> 'key_id', NEW.audit ->> 'key_name',
            NEW.audit ->> 'action', NEW.agent, NEW.id, NEW.audit ->> 'address', NEW.audit ->> 'user_agent',
            NEW.audit ->> 'request_id',
            CASE NEW.state WHEN 'SUCCEEDED' THEN 'success' WHEN 'FAILED' THEN 'failure' ELSE 'pending' END,
            NEW.failure ->> 'code'); END;

CREATE TRIGGER deployment_end_is_audited AFTER UPDATE OF completed_at ON deployments
    WHEN NEW.completed_at IS NOT NULL AND OLD.completed_at IS NULL
    BEGIN UPDATE audit SET outcome = CASE NEW.state WHEN 'SUCCEEDED' THEN 'success' ELSE 'failure' END,
            code = NEW.failure ->> 'code'
        WHERE deployment = NEW.id AND outcome = 'pending'; END;
