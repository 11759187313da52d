#!/bin/bash
# Builds the Rust example policies into WebAssembly components.
#   plugins/build.sh [--out DIR] [NAME...]      without names: every Rust example
# Writes DIR/NAME.wasm (default: fixtures/plugins) and, if all were built, DIR/TOOLCHAIN.txt.
# The same toolchain makes the same bytes, wherever the checkout is; plugins/check.sh relies on it.
set -euo pipefail
cd "$(dirname "$(realpath "$0")")"
. ./toolchain.sh

OUT=../fixtures/plugins
if [ "${1:-}" = --out ]; then OUT=$2; shift 2; fi
mkdir -p "$OUT"; OUT=$(realpath "$OUT")
ALL=$(for toml in examples/*/Cargo.toml; do basename "$(dirname "$toml")"; done)
NAMES=${*:-$ALL}

toolchain
export CARGO_TARGET_DIR=${CARGO_TARGET_DIR:-$PWD/target}
# shellcheck disable=SC2046 # one -p per name
RUSTFLAGS=$(rustflags "$PWD") cargo build -q --release --locked --target $TARGET $(printf -- '-p %s ' $NAMES)

for name in $NAMES; do
  core=$CARGO_TARGET_DIR/$TARGET/release/${name//-/_}.wasm
  wasm-tools component new "$core" -o "$OUT/$name.wasm"
  wasm-tools validate --features component-model "$OUT/$name.wasm"
  say "$(stat -c %s "$OUT/$name.wasm") bytes  $name.wasm"
done

if [ "$NAMES" = "$ALL" ]; then
  # shellcheck disable=SC2046 # one file per name
  { toolchain_identity; echo; (cd "$OUT" && sha256sum $(printf '%s.wasm ' $NAMES)); } > "$OUT/TOOLCHAIN.txt"
fi
