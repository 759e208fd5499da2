#!/bin/sh
# Makes the services' user and their database, once, when the database server is set up.
set -eu
password=$(cat /keys/database/password)
psql --no-psqlrc --set ON_ERROR_STOP=1 --username "${POSTGRES_USER:-postgres}" <<SQL
CREATE ROLE hoistway LOGIN PASSWORD '$password';
CREATE DATABASE hoistway OWNER hoistway ENCODING UTF8 TEMPLATE template0;
SQL
