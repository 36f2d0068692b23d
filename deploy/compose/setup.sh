#!/bin/sh
# Makes what compose.yaml needs and the repository cannot hold: secrets, the
# keyring, the root key, and the keys of the sidecars and of nginx. Then it starts
# everything. Run again, it makes only what is missing.
#
# The files are readable by all, for containers run as users of their own, and
# their directory is open to you alone, which keeps other users of the machine out.
set -eu
umask 022
cd "$(dirname "$0")"
secrets=$PWD/secrets
mkdir -p -m 0700 "$secrets"
chmod 0700 "$secrets"
compose() { docker compose --file ../compose.yaml "$@"; }

# keep NAME writes standard input to a secret, whole or not at all.
keep() {
    cat > "$secrets/.$1"
    [ -s "$secrets/.$1" ] || { echo "nothing came for the secret $1" >&2; exit 1; }
    mv "$secrets/.$1" "$secrets/$1"
}
missing() { [ ! -s "$secrets/$1" ]; }
random() { od -An -N32 -tx1 /dev/urandom | tr -d ' \n'; }
field() { sed -n 's/.*"'"$1"'":"\([^"]*\)".*/\1/p'; }
# user NAME ARGS makes a user of Redis, as a line of its ACL file, and keeps the
# URL that has its password. Redis keeps the password as SHA-256.
user() {
    name=$1 && shift
    made=$(compose run --rm --no-deps --no-TTY --user "$(id -u):$(id -g)" init --json redis acl "$@")
    login=$(echo "$made" | field user) password=$(echo "$made" | field password) rule=$(echo "$made" | field rule)
    [ -n "$login" ] && [ -n "$password" ] && [ -n "$rule" ]
    printf 'redis://%s:%s@redis:6379/0' "$login" "$password" | keep "$name"
    echo "user $login $rule"
}

# PostgreSQL and Redis.
if missing postgres_password; then random | keep postgres_password; fi
if missing database_url; then
    printf 'postgres://latchkey:%s@postgres:5432/latchkey?sslmode=disable' "$(cat "$secrets/postgres_password")" | keep database_url
fi
if missing redis_acl; then
    compose build init
    control=$(user redis_control_url --control-plane)
    sidecar=$(user redis_sidecar_url --customer=default)
    # Who has not authenticated may say PING, which the health check does.
    keep redis_acl <<ACL
user default reset on nopass sanitize-payload -@all +ping
$control
$sidecar
ACL
fi
if missing pepper; then random | keep pepper; fi

compose up --detach --wait postgres redis
if missing .initialised; then # the root key may have been moved away since
    compose run --rm --user "$(id -u):$(id -g)" init
    chmod 0644 "$secrets/keyring" # as the others
    echo done > "$secrets/.initialised"
fi
compose up --detach --wait control-1 control-2

# post PATH BODY calls a control plane as root; the key is not an argument that
# other users could see.
post() {
    printf 'Authorization: Bearer %s\n' "$(cat "$secrets/root.key")" |
        curl --silent --show-error --fail-with-body --header @- --header 'Content-Type: application/json' \
            --data "$2" "${LATCHKEY_URL:-http://127.0.0.1:5539}$1"
}
if missing sidecar_key; then
    post /v1/access_keys '{"scopes": {"customer": {"decision": true, "sidecar": true}}, "metadata": {"username": "compose", "keyname": "sidecars"}}' |
        field key | keep sidecar_key
fi
if missing nginx_caller; then
    key=$(post /v1/access_keys '{"scopes": {"customer": {"decision": true}}, "metadata": {"username": "compose", "keyname": "nginx"}}' | field key)
    [ -n "$key" ]
    printf 'proxy_set_header X-Latchkey-Caller "%s";\n' "$key" | keep nginx_caller
fi

compose up --detach --wait
if ! missing root.key; then echo "The root key is in $secrets/root.key: move it to a safe place."; fi
echo 'The sample application answers on http://127.0.0.1:8080/docs/… to keys with a scope such as {"doc": [{"f": "/docs/*", "p": 2}]}.'
