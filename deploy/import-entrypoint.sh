#!/bin/sh
# Imports an export into the volumes of all services: import-entrypoint.sh EXPORT KEY_FILE. The services' user 65532,
# who owns the volumes, need not be able to read the two files.
set -eu
[ $# = 2 ] || { echo "usage: import EXPORT KEY_FILE" >&2; exit 64; }
umask 077
cat "$2" >/tmp/export.key
chown 65532:65532 /tmp/export.key
exec setpriv --reuid=65532 --regid=65532 --clear-groups --inh-caps=-all --bounding-set=-all --no-new-privs \
    hoistway import - --key-file /tmp/export.key --separate-programs <"$1"
