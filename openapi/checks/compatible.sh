#!/bin/bash
# Compares openapi/openapi.json with that of the last release (openapi/released/VERSION.json, the highest
# version) and fails on a change that breaks clients. One that is meant has a line in CHANGELOG.md that
# begins with "- **Breaking**" under the unreleased version; then the differences are shown and let pass.
set -uo pipefail
cd "$(dirname "$(realpath "$0")")"
last=$(ls ../released/*.json 2>/dev/null | sort -V | tail -1)
[ -n "$last" ] || { echo "nothing has been released yet: no openapi/released/*.json"; exit 77; }
if ! command -v npm >/dev/null; then echo "there is no npm"; exit 77; fi
npm ci --silent --no-fund --no-audit --ignore-scripts || { echo "openapi-diff can't be had"; exit 77; }
echo "compared with $last"
npx openapi-diff "$last" ../openapi.json; code=$?
# What openapi-diff doesn't look at: parameters that have become required.
python3 required_parameters.py "$last" ../openapi.json || code=1
[ $code = 0 ] && { echo "no breaking change"; exit 0; }
if awk '/^## /{n++} n==1' ../../CHANGELOG.md 2>/dev/null | grep -q '^- \*\*Breaking\*\*'; then
  echo "breaking, and CHANGELOG.md says so"; exit 0
fi
echo "a breaking change without a '- **Breaking**' line in CHANGELOG.md"; exit 1
