#!/bin/sh
# Makes the database, and for each service a user that owns a schema of its own and nothing else. Safe to repeat.
set -eu
PGPASSWORD=$(cat /keys/database-admin/password)
export PGPASSWORD PGHOST=database PGUSER=postgres PGOPTIONS='-c client_min_messages=warning'
sql() { psql --no-psqlrc --quiet --tuples-only --set ON_ERROR_STOP=1 --output /dev/null "$@"; }

sql --dbname postgres <<'SQL'
SELECT 'CREATE DATABASE hoistway ENCODING UTF8 TEMPLATE template0'
WHERE NOT EXISTS (SELECT FROM pg_database WHERE datname = 'hoistway')\gexec
REVOKE ALL ON DATABASE hoistway, postgres, template1 FROM PUBLIC;
-- Earlier versions had one user for all services, which owned the database.
ALTER DATABASE hoistway OWNER TO CURRENT_USER;
SELECT 'ALTER ROLE hoistway NOLOGIN' WHERE EXISTS (SELECT FROM pg_roles WHERE rolname = 'hoistway')\gexec
SQL
for service in gateway tool-registry build agent egress; do
    schema=$(echo "$service" | tr - _)
    # The password is among the statements, not among the arguments, which every user sees.
    sql --dbname hoistway --set schema="$schema" --set role="hoistway_$schema" <<SQL
\set password '$(cat "/keys/$service/database-password")'
SELECT format('CREATE ROLE %I LOGIN', :'role') WHERE NOT EXISTS (SELECT FROM pg_roles WHERE rolname = :'role')\gexec
ALTER ROLE :"role" PASSWORD :'password';
GRANT CONNECT ON DATABASE hoistway TO :"role";
CREATE SCHEMA IF NOT EXISTS :"schema";
ALTER SCHEMA :"schema" OWNER TO :"role";
SELECT format('ALTER TABLE %s OWNER TO %I', oid::regclass, :'role') FROM pg_class
WHERE relnamespace = :'schema'::regnamespace AND relkind IN ('r', 'p', 'v') AND relowner <> :'role'::regrole\gexec
SELECT format('ALTER FUNCTION %s OWNER TO %I', oid::regprocedure, :'role') FROM pg_proc
WHERE pronamespace = :'schema'::regnamespace AND proowner <> :'role'::regrole\gexec
SQL
done
