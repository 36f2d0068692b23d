#!/usr/bin/env bash
# load.sh URL KEY: puts this scenario into a running server; see ../load.sh.
set -euo pipefail
here=$(cd "$(dirname "$0")" && pwd)
exec "$here/../load.sh" "$here" "$@"
