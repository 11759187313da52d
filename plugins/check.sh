#!/bin/bash
# Rebuilds the Rust example policies and compares them with fixtures/plugins.
# With the recorded toolchain they must be equal byte for byte (exit 1 if not). With another one a
# difference is reported, and no failure: `latchkey plugin test` then shows whether they behave alike.
#   plugins/check.sh [DIR]       DIR keeps the rebuilt files (default: a temporary folder)
set -euo pipefail
cd "$(dirname "$(realpath "$0")")"
. ./toolchain.sh

RECORDED=$(realpath ../fixtures/plugins)
if [ $# -gt 0 ]; then
  mkdir -p "$1"; REBUILT=$(realpath "$1")
else
  REBUILT=$(mktemp -d); trap 'rm -r "$REBUILT"' EXIT
fi

./build.sh --out "$REBUILT"
identity() { sed '/^$/,$d' "$1/TOOLCHAIN.txt"; }

differing=0
while read -r digest file; do
  if [ ! -e "$RECORDED/$file" ]; then
    say "check: $file is built from source, but not in fixtures/plugins"; differing=1
  elif [ "$(sha256sum < "$RECORDED/$file" | cut -d' ' -f1)" != "$digest" ]; then
    say "check: $file differs from its source's build"; differing=1
  fi
done < <(sed '1,/^$/d' "$REBUILT/TOOLCHAIN.txt")
(cd "$RECORDED" && sed '1,/^$/d' TOOLCHAIN.txt | sha256sum -c --quiet -) ||
  { say "check: fixtures/plugins/TOOLCHAIN.txt does not describe the files beside it: run plugins/build.sh"; exit 1; }

if [ $differing = 0 ]; then
  say "check: fixtures/plugins equals its source's build, byte for byte"
elif [ "$(identity "$RECORDED")" = "$(identity "$REBUILT")" ]; then
  say "check: same toolchain, other bytes: run plugins/build.sh and commit, or mend what made the build differ"; exit 1
else
  say "check: another toolchain, so other bytes are no failure:"
  diff <(identity "$RECORDED") <(identity "$REBUILT") >&2 || true
fi
