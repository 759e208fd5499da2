#!/bin/sh
# Makes what the services show each other, at the first start: an authority, and for each service a certificate and a
# password of the database. Certificates are renewed a month before they expire.
set -eu
umask 077
readonly days=3650 month=2592000
cat >/tmp/openssl.cnf <<CNF
[req]
distinguished_name = name
[name]
CNF

# New files take their places at once, however this ends.
random() {
    [ -s "$1" ] || { openssl rand -hex 32 >"$1.new" && chmod "$2" "$1.new" && mv "$1.new" "$1"; }
}
certificate() {
    directory=$1
    shift
    openssl x509 -noout -checkend $month -in "$directory/tls.pem" >/dev/null 2>&1 && return
    openssl req -config /tmp/openssl.cnf -x509 -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -days $days \
        -keyout "$directory/tls-key.pem.new" -out "$directory/tls.pem.new" "$@" 2>/tmp/openssl.log ||
        { cat /tmp/openssl.log >&2; exit 1; }
    mv "$directory/tls-key.pem.new" "$directory/tls-key.pem"
    mv "$directory/tls.pem.new" "$directory/tls.pem"
}

random /keys/database-admin/password 444
certificate /keys/authority -subj "/CN=Hoistway services" -addext basicConstraints=critical,CA:TRUE \
    -addext keyUsage=critical,keyCertSign
for service in gateway tool-registry build agent egress; do
    random "/keys/$service/database-password" 400
    # Certificates of an authority that is replaced are replaced with it.
    if ! cmp -s /keys/authority/tls.pem "/keys/$service/ca.pem"; then
        rm -f "/keys/$service/tls.pem"
        cp /keys/authority/tls.pem "/keys/$service/ca.pem.new"
        mv "/keys/$service/ca.pem.new" "/keys/$service/ca.pem"
    fi
    certificate "/keys/$service" -CA /keys/authority/tls.pem -CAkey /keys/authority/tls-key.pem -subj "/CN=$service" \
        -addext "subjectAltName=DNS:$service" -addext basicConstraints=critical,CA:FALSE \
        -addext extendedKeyUsage=serverAuth,clientAuth
done
