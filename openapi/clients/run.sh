#!/bin/bash
# Generates each client from openapi/openapi.json with its pinned generator, and lets it live through the
# story of a lost device against the real server:
#   openapi/clients/run.sh                 all that have their tools here
#   openapi/clients/run.sh python java     these
# A client whose tools can't be had is skipped, and a line says why. What is downloaded and generated goes
# to target/clients. LATCHKEY=path names another binary than target/debug/latchkey.
set -uo pipefail
cd "$(dirname "$(realpath "$0")")"
here=$PWD root=$(realpath ../..)
export OPENAPI=$root/openapi/openapi.json WORK=${WORK:-$root/target/clients}
mkdir -p "$WORK"
latchkey=${LATCHKEY:-$root/target/debug/latchkey}
[ -x "$latchkey" ] || (cd "$root" && cargo build --locked) || exit 1
server=
trap '[ -n "$server" ] && kill "$server" 2>/dev/null' EXIT

# A server of its own for each client: the story can be lived once.
start() {
  unset LATCHKEY_URL # the server refuses variables that are no configuration
  local data; data=$(mktemp -d "$WORK/data.XXXXXX")
  : > "$data/out"
  # Five resets of a user as ever, but one more after four seconds: nobody wants to wait for twelve minutes.
  LATCHKEY_LIMITS__RESET_BY_TARGET__REQUESTS=5 LATCHKEY_LIMITS__RESET_BY_TARGET__WINDOW_SECS=20 \
  "$latchkey" --log-level warn --data-dir "$data" demo --sample "$here/story.toml" --listen 127.0.0.1:0 \
    > "$data/out" 2> "$data/log" &
  server=$!
  for _ in $(seq 240); do
    LATCHKEY_URL=$(sed -n 's/^Listening on //p' "$data/out")
    [ -n "$LATCHKEY_URL" ] && break
    kill -0 "$server" 2>/dev/null || break
    sleep 0.25
  done
  [ -n "$LATCHKEY_URL" ] || { cat "$data/log"; return 1; }
  export LATCHKEY_URL
}
stop() { kill "$server" 2>/dev/null; wait "$server" 2>/dev/null; server=; rm -rf "$WORK"/data.*; }

passed=0 failed=0 skipped=0
for client in ${@:-curl entryguard typescript python java rust}; do
  export CLIENT_WORK=$WORK/$client; mkdir -p "$CLIENT_WORK"
  log=$WORK/$client.log began=$SECONDS
  # `prepare` downloads and generates: without a server, and it may find that it can't (77).
  (cd "$client" && bash ./prepare.sh) > "$log" 2>&1; code=$?
  if [ $code = 0 ]; then
    start || exit 1
    (cd "$client" && bash ./test.sh) >> "$log" 2>&1; code=$?
    stop
  fi
  case $code in
    0) passed=$((passed + 1)); echo "ok       $client ($((SECONDS - began)) s)"
       grep -E '^story: ' "$log" | sed 's/^story: /         /' ;;
    77) skipped=$((skipped + 1)); echo "skipped  $client: $(tail -1 "$log")" ;;
    *) failed=$((failed + 1)); echo "FAILED   $client; the end of $log:"; tail -40 "$log" | sed 's/^/    | /' ;;
  esac
done
echo "$passed passed, $failed failed, $skipped skipped"
[ $failed = 0 ]
