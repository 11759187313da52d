#!/bin/bash
# From nothing to a decision that was replayed, in each language: the transcript of it goes to standard output.
# The author: new, build, check, test, bench, pack, sign, verify; Debian's minisign verifies what we signed and the
# other way round, where it is installed. The operator: install, bind, a reset that passes, one that is denied, its
# entry in the trail, metrics, a replay against other terms.
#   plugins/author-path.sh DIR [LANG...]      the projects stay in DIR/NAME
# Needs the latchkey binary (LATCHKEY, else one in PATH), curl, and what the project's README names: cargo; npm; python3
# with venv; and their registries. A language whose tools can't be had is skipped with a line that says so.
# Exit: 0 all passed, 77 all skipped, else failed.
set -euo pipefail
[ $# -ge 1 ] || { sed -n 2,10p "$0"; exit 2; }
mkdir -p "$1"; OUT=$(realpath "$1"); shift
LATCHKEY=$(realpath "$(command -v "${LATCHKEY:-latchkey}")")
. "$(dirname "$(realpath "$0")")/toolchain.sh"

# What is typed, then what it says.
step() { echo "\$ $*"; "$@" 2>&1; }
latchkey() { echo "\$ latchkey $*"; "$LATCHKEY" "$@" 2>&1; }
# What is to be refused, or to find something: with this exit code and no other.
ends_with() { local code=0; "${@:2}" || code=$?; [ $code = "$1" ] || { say "exit $code instead of $1: ${*:2}"; return 1; }; }
says() { local text; text=$("${@:2}"); echo "$text"; [[ $text == *"$1"* ]] || { say "does not say $1: ${*:2}"; return 1; }; }
have() { command -v "$1" >/dev/null || { say "skipped $lang: no $1 here"; return 1; }; }

build_rust() (
  export CARGO_TARGET_DIR=$PWD/target
  step cargo test --quiet
  toolchain   # the wasm32-unknown-unknown target, made where rustup has none
  step cargo build --quiet --release --target $TARGET
  step cp "target/$TARGET/release/${name//-/_}.wasm" "$name.wasm"
)
build_javascript() {
  step npm install --silent --no-fund --no-audit
  step npm run --silent build
}
build_python() {
  step python3 -m venv .venv
  step .venv/bin/pip --quiet --disable-pip-version-check install -r requirements.txt
  step .venv/bin/componentize-py -d wit -w policy componentize --stub-wasi policy -o "$name.wasm"
}
build_c() {
  step python3 -m venv .venv
  step .venv/bin/pip --quiet --disable-pip-version-check install ziglang==0.17.1
  step .venv/bin/python -m ziglang cc -target wasm32-wasi -Os -mexec-model=reactor -Wl,--strip-all -I sdk \
    -o "$name.wasm" plugin.c sdk/policy.c sdk/contract.c
}
needs() {
  case $lang in rust) have cargo ;; javascript) have npm ;; python | c) have python3 ;; esac
}

author() {
  latchkey plugin new --lang "$lang" "$name"
  echo "\$ cd $name"
  cd "$name"
  build_"$lang"
  latchkey plugin check "$name.wasm"
  latchkey plugin test "$name.wasm" cases --junit report.xml
  latchkey plugin run "$name.wasm" --config '{"maxPerDay":3}'
  latchkey plugin bench "$name.wasm" --config '{"maxPerDay":3}' --calls 200
  latchkey plugin pack "$name.wasm" cases -o release.wasm
  latchkey plugin keygen author --no-password
  latchkey plugin sign release.wasm --key author.key --no-password
  latchkey plugin verify release.wasm --public-key author.pub
  if command -v minisign >/dev/null; then
    step minisign -V -m release.wasm -p author.pub
    step minisign -G -W -p theirs.pub -s theirs.key
    step minisign -S -m release.wasm -s theirs.key -x theirs.minisig
    latchkey plugin verify release.wasm --public-key theirs.pub --signature theirs.minisig
    # A key that did not sign it.
    ends_with 5 latchkey plugin verify release.wasm --public-key theirs.pub
  else
    say "no minisign here (Debian: apt-get install minisign): our own tool alone was shown"
  fi
}

# The sample's organisation, its admin, and two of its users.
ORG=juniper
USERS=/api/v1/users/770e8400-e29b-41d4-a716-44665544000

serve() {
  rm -rf appliance
  LATCHKEY_PLUGINS__TRUSTED_KEYS="[\"$(tail -1 author.pub)\"]" RUST_LOG='' \
    "$LATCHKEY" demo --data-dir appliance --listen 127.0.0.1:0 >demo.out 2>demo.log &
  SERVER=$!
  trap 'kill $SERVER 2>/dev/null || true' EXIT
  for _ in $(seq 600); do
    [ -S appliance/latchkey.sock ] && break
    kill -0 $SERVER 2>/dev/null || { cat demo.log >&2; return 1; }
    sleep 0.2
  done
  ADDRESS=$(sed -n 's/.*\(http:\/\/127[.0-9:]*\).*/\1/p' demo.out | head -1)
  TOKEN=$(sed -n "s/.*Bearer \([^']*\)'.*/\1/p" demo.out | head -1)
}
api() {
  echo "\$ curl -X $1 \$APPLIANCE$2 -H \"Authorization: Bearer \$TOKEN\""
  curl -sS -X "$1" "$ADDRESS$2" -H "Authorization: Bearer $TOKEN"
  echo
}

operator() {
  echo "\$ latchkey demo --data-dir appliance &"
  serve
  latchkey plugin install release.wasm --signature release.wasm.minisig --data-dir appliance
  ends_with 5 latchkey plugin bind "$name" --org $ORG --config '{"maxPerDay":0}' --data-dir appliance
  latchkey plugin bind "$name" --org $ORG --config '{"maxPerDay":1}' --data-dir appliance
  says '"MFA reset successfully"' api POST ${USERS}4/reset-mfa
  says '"code":"daily-limit"' api POST ${USERS}5/reset-mfa
  says '"deniedBy":"'"$name"'"' api GET "/api/v1/audit-logs?size=1"
  latchkey plugin list --data-dir appliance
  says "plugin=\"$name\"" metrics
  # As it was decided, and as it would have been with two a day.
  latchkey plugin replay release.wasm --since 1d --data-dir appliance
  ends_with 1 latchkey plugin replay release.wasm --since 1d --config '{"maxPerDay":2}' --data-dir appliance
  kill $SERVER; wait $SERVER || true; trap - EXIT
}
metrics() { latchkey plugin metrics --data-dir appliance | grep -E '^\$|calls_total\{|denials_total\{' | grep -E "^\\$|$name"; }

passed=0
[ $# -gt 0 ] || set -- rust javascript python c
cd "$OUT"
for lang in "$@"; do
  needs || continue
  name=daily-limit-$lang
  rm -rf "$name"
  echo "=== $lang ==="
  author
  operator
  say "passed $lang: $(stat -c %s "$name.wasm") bytes"
  passed=$((passed + 1))
  cd "$OUT"
done
[ $passed -gt 0 ] || exit 77
