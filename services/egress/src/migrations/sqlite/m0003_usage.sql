-- The usage of models by agents, summed up by hours and by days. `start` is the beginning of an hour or a day of UTC,
-- in milliseconds since the epoch. A cost has two parts: whole units, and millionths of a millionth.
CREATE TABLE usage_hours (
    start BIGINT NOT NULL,
    agent TEXT NOT NULL,
    provider TEXT NOT NULL,
    model TEXT NOT NULL,
    end_user TEXT NOT NULL,
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

CREATE TABLE usage_days (
    start BIGINT NOT NULL,
    agent TEXT NOT NULL,
    provider TEXT NOT NULL,
    model TEXT NOT NULL,
    end_user TEXT NOT NULL,
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
