-- The limits of what agents may use of models.

-- `limits` are `LIMIT=AMOUNT`, with spaces between.
CREATE TABLE budgets (agent TEXT NOT NULL PRIMARY KEY, limits TEXT NOT NULL, set_at BIGINT NOT NULL);
