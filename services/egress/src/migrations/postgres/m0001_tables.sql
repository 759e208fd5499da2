-- Records of calls, the usage of models, and budgets. Texts are compared byte by byte, as everywhere.
CREATE TABLE calls (
    id BIGINT NOT NULL PRIMARY KEY,
    at BIGINT NOT NULL,
    agent TEXT COLLATE "C",
    revision TEXT,
    target_kind TEXT,
    target TEXT,
    method TEXT NOT NULL,
    origin TEXT NOT NULL,
    path TEXT NOT NULL,
    status INTEGER,
    first_byte_ms BIGINT NOT NULL,
    duration_ms BIGINT NOT NULL,
    bytes_up BIGINT NOT NULL,
    bytes_down BIGINT NOT NULL,
    refused TEXT,
    broken TEXT,
    error TEXT
);
CREATE INDEX calls_by_agent ON calls (agent, id);
CREATE INDEX calls_by_time ON calls (at);

-- An id is not used again, whatever was removed: readers go on from the last one that they have. The row is locked
-- until the commit, so ids are in the order of commits and have no gap.
CREATE TABLE call_ids (last BIGINT NOT NULL);
INSERT INTO call_ids VALUES (0);
CREATE FUNCTION call_has_an_id() RETURNS TRIGGER LANGUAGE plpgsql SET search_path FROM CURRENT AS $$
BEGIN
    UPDATE call_ids SET last = last + 1 RETURNING last INTO NEW.id;
    RETURN NEW;
END $$;
CREATE TRIGGER call_has_an_id BEFORE INSERT ON calls FOR EACH ROW EXECUTE FUNCTION call_has_an_id();

-- The usage of models by agents, summed up by hours and by days. `start` is the beginning of an hour or a day of UTC,
-- in milliseconds since the epoch. A cost has two parts: whole units, and millionths of a millionth.
CREATE TABLE usage_hours (
    start BIGINT NOT NULL,
    agent TEXT COLLATE "C" NOT NULL,
    provider TEXT COLLATE "C" NOT NULL,
    model TEXT COLLATE "C" NOT NULL,
    end_user TEXT COLLATE "C" NOT NULL,
    requests BIGINT NOT NULL,
    failed_requests BIGINT NOT NULL,
    estimated_requests BIGINT NOT NULL,
    priced_requests BIGINT NOT NULL,
    input_tokens BIGINT NOT NULL,
    cached_input_tokens BIGINT NOT NULL,
    output_tokens BIGINT NOT NULL,
    cost_whole BIGINT NOT NULL,
    cost_rest BIGINT NOT NULL,
    PRIMARY KEY (start, agent, provider, model, end_user)
);
CREATE TABLE usage_days (LIKE usage_hours INCLUDING ALL);

-- `limits` are `LIMIT=AMOUNT`, with spaces between.
CREATE TABLE budgets (agent TEXT COLLATE "C" NOT NULL PRIMARY KEY, limits TEXT NOT NULL, set_at BIGINT NOT NULL);
