#!/bin/bash
# How long a start takes to make a thousand organisations' policies ready, and the memory that they take: three
# policies each, with configurations of their own, and the release binary as it is.
#   benches/bindings.sh [ORGANISATIONS]       (LATCHKEY: the binary; default target/release/latchkey)
# Needs python3. Ends with 1 beyond 100 ms or 50 MB, the bounds of a quiet machine.
set -euo pipefail
cd "$(dirname "$(realpath "$0")")/.."
LATCHKEY=$(realpath "${LATCHKEY:-target/release/latchkey}") ORGANISATIONS=${1:-1000}
work=$(mktemp -d); trap 'rm -r "$work"' EXIT
latchkey() { "$LATCHKEY" --data-dir "$work/data" --log-level warn "$@" >/dev/null; }

latchkey org create first
for policy in 'reset-budget {"perUser":{"max":2,"days":30}}' 'ticket-required {"prefixes":["HD-"]}' \
  'force-reenrollment {"hours":8}'; do
  latchkey plugin install "fixtures/plugins/${policy%% *}.wasm"
  latchkey plugin bind "${policy%% *}" --org first --config "${policy#* }"
done

# Starts, waits until it serves, and says how long the policies took (µs) and its resident memory (KiB).
start() {
  "$LATCHKEY" --data-dir "$work/data" serve --listen 127.0.0.1:0 >"$work/out" 2>"$work/log" &
  local server=$! micros
  until [ -S "$work/data/latchkey.sock" ]; do kill -0 $server; sleep 0.05; done
  micros=$(sed 's/\x1b\[[0-9;]*m//g' "$work/log" | sed -n 's/.*policies are ready.* micros=\([0-9]*\).*/\1/p')
  echo "${micros:-none} $(awk '/^VmRSS/ { print $2 }' "/proc/$server/status")" >"$work/figures"
  kill $server
  wait $server
}
start # compiles, and keeps what it compiled
start
read -r _ one_kib <"$work/figures"

python3 - "$work/data/latchkey.db" "$ORGANISATIONS" <<'PY'
import hashlib, os, sqlite3, sys
database, organisations = sqlite3.connect(sys.argv[1]), int(sys.argv[2])
columns = [row[1] for row in database.execute("PRAGMA table_info(binding)")]
bindings = [dict(zip(columns, row)) for row in database.execute(f"SELECT {','.join(columns)} FROM binding")]
for n in range(1, organisations):
    organisation = os.urandom(16)
    database.execute("INSERT INTO organization (id, slug, name, settings, created_at, updated_at) "
                     "SELECT ?, ?, ?, settings, created_at, updated_at FROM organization WHERE slug = 'first'",
                     (organisation, f"org-{n}", f"Organisation {n}"))
    database.execute("INSERT INTO policy_revision VALUES (?, 1)", (organisation,))
    for binding in bindings:
        config = '{"hours":8,"note":"%d of organisation %d"}' % (binding["position"], n)
        digest = hashlib.sha256(config.encode()).digest()
        database.execute("INSERT INTO plugin_configuration VALUES (?, ?, 0)", (digest, config))
        own = binding | {"id": os.urandom(16), "organization_id": organisation, "config_digest": digest}
        database.execute(f"INSERT INTO binding ({','.join(columns)}) VALUES ({','.join('?' * len(columns))})",
                         [own[column] for column in columns])
database.commit()
PY

best=
for _ in 1 2 3 4 5; do
  start
  read -r micros kib <"$work/figures"
  [ "$micros" != none ] || { cat "$work/log" >&2; exit 1; }
  echo "$ORGANISATIONS organisations with 3 policies each: ready after $((micros / 1000)).$(printf %03d $((micros % 1000))) ms," \
    "resident $((kib / 1024)) MiB, $(((kib - one_kib) / 1024)) MiB more than with one organisation"
  if [ -z "$best" ] || [ "$micros" -lt "$best" ]; then best=$micros; fi
done
[ "$best" -lt 100000 ] && [ $((kib - one_kib)) -lt 51200 ]
