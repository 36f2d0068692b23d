#!/usr/bin/env bash
# load.sh DIRECTORY URL KEY: puts a scenario into a running server and makes its
# policy the customer's default. KEY is the root key. LATCHKEY_CUSTOMER names the
# customer; without it, the default one.
#
# A directory holds, where it needs them: subjects.json and resources.json (bulk
# updates), types/TYPE.json (catalogues of actions) and policies/NAME.json.
set -euo pipefail
[ $# -eq 3 ] || { echo "usage: load.sh URL KEY" >&2; exit 2; }
directory=$1 url=${2%/} key=$3 customer=${LATCHKEY_CUSTOMER:-default}

# The key goes in by a file descriptor: arguments of a program are for all to see.
call() { # METHOD PATH [FILE]
  local answer status
  answer=$(curl -sS -X "$1" "$url$2" -w '\n%{http_code}' \
    -H @<(printf 'Authorization: Bearer %s\nX-Customer-ID: %s\n' "$key" "$customer") \
    ${3:+-H 'Content-Type: application/json' --data-binary "@$3"})
  status=${answer##*$'\n'}
  if [[ $status != 2* || $answer == *'"error":{'* ]]; then
    echo "$1 $2: $answer" >&2
    return 1
  fi
}

for kind in subjects resources; do
  if [ -f "$directory/$kind.json" ]; then
    call POST "/v1/$kind:bulkUpdate" "$directory/$kind.json"
  fi
done
for file in "$directory"/types/*.json; do
  if [ -f "$file" ]; then
    call PUT "/v1/resource_types/$(basename "$file" .json)" "$file"
  fi
done
policy=
for file in "$directory"/policies/*.json; do
  policy=$(basename "$file" .json)
  call PUT "/v1/policies/$policy" "$file"
done
call PATCH "/v1/customers/$customer" <(printf '{"default_policy":"%s"}' "$policy")
echo "$policy is the default policy of $customer"
