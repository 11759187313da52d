#!/bin/bash
# In headless Chromium: the explorer page (/docs) signs in and tries a reset, and a passkey is made and used with
# the browser's own authenticator. Where the kernel lets us, server and browser run in a network of their own
# that has nothing but a loopback: it works without internet.
set -uo pipefail
cd "$(dirname "$(realpath "$0")")"
root=$(realpath ../..)
for tool in node npm; do
  if ! command -v $tool >/dev/null; then echo "there is no $tool"; exit 77; fi
done
CHROMIUM=${CHROMIUM:-$(command -v chromium || command -v chromium-browser || command -v google-chrome)}
if [ -z "$CHROMIUM" ] && [ -n "${CI:-}" ] && apt-get update -q >/dev/null 2>&1; then
  apt-get install -y -q --no-install-recommends chromium >/dev/null 2>&1
  CHROMIUM=$(command -v chromium)
fi
[ -n "$CHROMIUM" ] || { echo "there is no Chromium (apt-get install chromium, or CHROMIUM=path)"; exit 77; }
[ -n "${ALONE:-}" ] || npm ci --silent --no-fund --no-audit --ignore-scripts || { echo "playwright-core can't be had"; exit 77; }
latchkey=${LATCHKEY:-$root/target/debug/latchkey}
[ -x "$latchkey" ] || (cd "$root" && cargo build --locked) || exit 1
export CHROMIUM SCREENSHOTS=${SCREENSHOTS:-$root/target/explorer}
mkdir -p "$SCREENSHOTS"
if [ -z "${ALONE:-}" ] && unshare -rn ip link set lo up 2>/dev/null; then
  echo "story: in a network without a way out"
  exec env ALONE=1 LATCHKEY="$latchkey" unshare -rn bash -c 'ip link set lo up && exec bash ./run.sh'
fi
work=$(mktemp -d) server=
trap '[ -n "$server" ] && kill "$server" 2>/dev/null && wait "$server"; rm -rf "$work"' EXIT
env -u LATCHKEY "$latchkey" --log-level warn --data-dir "$work/data" \
  demo --sample sample.toml --listen 127.0.0.1:0 > "$work/out" 2> "$work/log" &
server=$!
for _ in $(seq 240); do
  LATCHKEY_URL=$(sed -n 's/^Listening on //p' "$work/out"); [ -n "$LATCHKEY_URL" ] && break
  kill -0 "$server" 2>/dev/null || break
  sleep 0.25
done
[ -n "$LATCHKEY_URL" ] || { cat "$work/log"; exit 1; }
export LATCHKEY_URL
node --test --test-reporter=spec --test-concurrency=1 ./*.test.mjs; code=$?
grep -E ' (ERROR|WARN) ' "$work/log" | head -20
exit $code
