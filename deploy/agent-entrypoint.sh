#!/bin/sh
# Starts the agent service as user 65532. Where the container begins as root because Docker's socket is mounted, the
# service gets the group of the socket, whose number differs from machine to machine, and no other privilege.
set -eu
[ "$(id -u)" = 0 ] || exec hoistway-agent "$@"

groups=--clear-groups
if [ -S /var/run/docker.sock ]; then
    groups=--groups=$(stat -c %g /var/run/docker.sock)
fi
# Docker makes it for root when it mounts it first.
sockets=${HOISTWAY_AGENT_DOCKER__DIR:-}
if [ -n "$sockets" ] && [ "$(stat -c %u "$sockets")" = 0 ]; then
    chown 65532:65532 "$sockets"
fi
exec setpriv --reuid=65532 --regid=65532 "$groups" --inh-caps=-all --bounding-set=-all --no-new-privs hoistway-agent "$@"
