-- The journal of deployments, API keys, and the audit log of changes. Texts are compared byte by byte, as everywhere.
CREATE TABLE deployments (
    id TEXT COLLATE "C" NOT NULL PRIMARY KEY,
    agent TEXT COLLATE "C" NOT NULL,
    state TEXT NOT NULL,
    log TEXT NOT NULL,
    request BYTEA,
    warnings TEXT NOT NULL,
    failure TEXT,
    created_at BIGINT NOT NULL,
    completed_at BIGINT,
    audit TEXT,
    place BIGINT
);
CREATE INDEX deployments_by_agent ON deployments (agent, id);
CREATE INDEX deployments_by_end ON deployments (completed_at);
CREATE INDEX deployments_by_place ON deployments (place);

CREATE TABLE api_keys (
    id TEXT COLLATE "C" NOT NULL PRIMARY KEY,
    name TEXT NOT NULL,
    prefix TEXT NOT NULL,
    hash TEXT NOT NULL,
    scopes TEXT NOT NULL,
    created_at BIGINT NOT NULL,
    created_by TEXT NOT NULL,
    expires_at BIGINT,
    revoked_at BIGINT,
    last_used_at BIGINT
);
CREATE INDEX api_keys_by_prefix ON api_keys (prefix);

CREATE TABLE audit (
    id TEXT COLLATE "C" NOT NULL PRIMARY KEY,
    at BIGINT NOT NULL,
    key_id TEXT NOT NULL,
    key_name TEXT NOT NULL,
    action TEXT COLLATE "C" NOT NULL,
    target TEXT,
    deployment TEXT,
    address TEXT,
    user_agent TEXT,
    request_id TEXT NOT NULL,
    outcome TEXT NOT NULL,
    status INTEGER,
    code TEXT
);
CREATE INDEX audit_by_target ON audit (target, id);
CREATE INDEX audit_by_key ON audit (key_id, id);
CREATE INDEX audit_by_action ON audit (action, id);
CREATE INDEX audit_by_deployment ON audit (deployment);
CREATE INDEX audit_by_time ON audit (at);

-- A row is added, and its outcome is written once.
CREATE FUNCTION audit_is_kept() RETURNS TRIGGER LANGUAGE plpgsql SET search_path FROM CURRENT AS $$
BEGIN
    IF OLD.outcome <> 'pending' OR OLD.id <> NEW.id OR OLD.at <> NEW.at OR OLD.key_id <> NEW.key_id
        OR OLD.action <> NEW.action OR OLD.request_id <> NEW.request_id THEN
        RAISE EXCEPTION 'the audit log is append-only';
    END IF;
    RETURN NEW;
END $$;
CREATE TRIGGER audit_is_kept BEFORE UPDATE ON audit FOR EACH ROW EXECUTE FUNCTION audit_is_kept();

-- Deployments have a place in the order in which they were accepted, whatever the clock said meanwhile. The row is
-- locked until the commit, so places are in the order of commits.
CREATE TABLE deployment_places (last BIGINT NOT NULL);
INSERT INTO deployment_places VALUES (0);
CREATE FUNCTION deployment_has_a_place() RETURNS TRIGGER LANGUAGE plpgsql SET search_path FROM CURRENT AS $$
BEGIN
    UPDATE deployment_places SET last = last + 1 RETURNING last INTO NEW.place;
    RETURN NEW;
END $$;
CREATE TRIGGER deployment_has_a_place BEFORE INSERT ON deployments
    FOR EACH ROW EXECUTE FUNCTION deployment_has_a_place();

-- A deployment carries its entry of the audit log; so accepting it is one statement and one commit with its entry, and
-- so is its end.
CREATE FUNCTION deployment_is_audited() RETURNS TRIGGER LANGUAGE plpgsql SET search_path FROM CURRENT AS $$
DECLARE
    entry JSON := NEW.audit;
BEGIN
    INSERT INTO audit (id, at, key_id, key_name, action, target, deployment, address, user_agent, request_id,
            outcome, code)
        VALUES (entry ->> 'id', (entry ->> 'at')::BIGINT, entry ->> 'key_id', entry ->> 'key_name',
            entry ->> 'action', NEW.agent, NEW.id, entry ->> 'address', entry ->> 'user_agent',
            entry ->> 'request_id',
            CASE NEW.state WHEN 'SUCCEEDED' THEN 'success' WHEN 'FAILED' THEN 'failure' ELSE 'pending' END,
            NEW.failure::JSON ->> 'code');
    RETURN NULL;
END $$;
CREATE TRIGGER deployment_is_audited AFTER INSERT ON deployments
    FOR EACH ROW WHEN (NEW.audit IS NOT NULL) EXECUTE FUNCTION deployment_is_audited();

CREATE FUNCTION deployment_end_is_audited() RETURNS TRIGGER LANGUAGE plpgsql SET search_path FROM CURRENT AS $$
BEGIN
    UPDATE audit SET outcome = CASE NEW.state WHEN 'SUCCEEDED' THEN 'success' ELSE 'failure' END,
            code = NEW.failure::JSON ->> 'code'
        WHERE deployment = NEW.id AND outcome = 'pending';
    RETURN NULL;
END $$;
CREATE TRIGGER deployment_end_is_audited AFTER UPDATE OF completed_at ON deployments
    FOR EACH ROW WHEN (NEW.completed_at IS NOT NULL AND OLD.completed_at IS NULL)
    EXECUTE FUNCTION deployment_end_is_audited();
