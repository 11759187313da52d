#!/bin/bash
# Schemathesis against a server of its own, as an admin, as a member and as nobody:
#   openapi/schemathesis/run.sh            seconds each, as in CI
#   openapi/schemathesis/run.sh 300        that many examples of each operation: minutes
# Answers are held to openapi/openapi.json: no server error, no undocumented status, type or field, no
# ignored authentication, no accepted invalid input.
set -uo pipefail
cd "$(dirname "$(realpath "$0")")"
root=$(realpath ../..)
examples=${1:-10}
if ! command -v python3 >/dev/null; then echo "there is no python3"; exit 77; fi
venv=$root/target/schemathesis
[ -x "$venv/bin/python" ] || python3 -m venv "$venv"
"$venv/bin/pip" install -q -r requirements.txt || { echo "schemathesis can't be had"; exit 77; }
latchkey=${LATCHKEY:-$root/target/debug/latchkey}
[ -x "$latchkey" ] || (cd "$root" && cargo build --locked) || exit 1
work=$(mktemp -d)
server=
trap '[ -n "$server" ] && kill "$server" 2>/dev/null; rm -rf "$work"' EXIT
# Without limits, which would answer 429 to most of it, and with sessions that outlive the run.
"$latchkey" config example | sed -E '/^\[limits\]/,$ s/requests = [0-9]+/requests = 0/; s/^access_secs = .*/access_secs = 86400/' \
  > "$work/latchkey.toml"
failed=0
for ROLE in ${ROLES:-admin member anonymous}; do
  rm -rf "$work/data"
  "$latchkey" --config-file "$work/latchkey.toml" --log-level warn --data-dir "$work/data" \
    demo --sample sample.toml --listen 127.0.0.1:0 > "$work/out" 2> "$work/log" &
  server=$!
  for _ in $(seq 240); do
    BASE_URL=$(sed -n 's/^Listening on //p' "$work/out"); [ -n "$BASE_URL" ] && break
    kill -0 "$server" 2>/dev/null || break
    sleep 0.25
  done
  [ -n "$BASE_URL" ] || { cat "$work/log"; exit 1; }
  export ROLE BASE_URL
  echo "== as $ROLE"
  "$venv/bin/st" --config-file schemathesis.toml run ../openapi.json --url "$BASE_URL" \
    --max-examples "$examples" --workers 2 --no-color || failed=1
  grep -E ' (ERROR|WARN) ' "$work/log" | head -20
  kill "$server"; wait "$server" 2>/dev/null; server=
done
exit $failed
