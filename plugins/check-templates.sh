#!/bin/bash
# An author's path in each language: new, build, check, test, pack, sign, verify, in a folder outside the checkout.
#   plugins/check-templates.sh DIR [LANG...]      the projects stay in DIR/NAME
# Needs the latchkey binary (LATCHKEY, else one in PATH) and what the project's README names: cargo; npm; python3
# with venv; and their registries. A language whose tools can't be had is skipped with a line that says so.
# Exit: 0 all passed, 77 all skipped, else failed.
set -euo pipefail
[ $# -ge 1 ] || { sed -n 2,6p "$0"; exit 2; }
mkdir -p "$1"; OUT=$(realpath "$1"); shift
LATCHKEY=$(realpath "$(command -v "${LATCHKEY:-latchkey}")")
. "$(dirname "$(realpath "$0")")/toolchain.sh"

step() { say "\$ $*"; "$@"; }
latchkey() { say "\$ latchkey $*"; "$LATCHKEY" "$@"; }
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

passed=0
[ $# -gt 0 ] || set -- rust javascript python c
cd "$OUT"
for lang in "$@"; do
  needs || continue
  name=daily-limit-$lang
  rm -rf "$name"
  latchkey plugin new --lang "$lang" "$name"
  cd "$name"
  build_"$lang" >&2
  latchkey plugin check "$name.wasm"
  latchkey plugin test "$name.wasm" cases --junit report.xml
  latchkey plugin pack "$name.wasm" cases -o "$name-packed.wasm"
  latchkey plugin keygen author --no-password
  latchkey plugin sign "$name-packed.wasm" --key author.key --no-password
  latchkey plugin verify "$name-packed.wasm" --public-key author.pub
  say "passed $lang: $(stat -c %s "$name.wasm") bytes"
  passed=$((passed + 1))
  cd ..
done
[ $passed -gt 0 ] || exit 77
