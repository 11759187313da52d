#!/bin/bash
# Compares openapi/openapi.json with that of the last release (openapi/released/VERSION.json, the highest
# version) and fails on a change that breaks clients. One that is meant has a line in CHANGELOG.md that
# begins with "- **Breaking**" under the topmost version; then the differences are shown and let pass.
#   openapi/checks/compatible.sh
#   openapi/checks/compatible.sh OLD NEW CHANGELOG      these files
set -uo pipefail
old=${1:+$(realpath "$1")} new=${2:+$(realpath "$2")} changelog=${3:+$(realpath "$3")}
cd "$(dirname "$(realpath "$0")")"
old=${old:-$(ls ../released/*.json 2>/dev/null | sort -V | tail -1)}
new=${new:-../openapi.json} changelog=${changelog:-../../CHANGELOG.md}
[ -n "$old" ] || { echo "nothing has been released yet: no openapi/released/*.json"; exit 77; }
for tool in npm python3; do
  if ! command -v $tool >/dev/null; then echo "there is no $tool"; exit 77; fi
done
[ -d node_modules/openapi-diff ] || npm ci --silent --no-fund --no-audit --ignore-scripts \
  || { echo "openapi-diff can't be had"; exit 77; }
echo "compared with $old"
# It knows what a schema lets through; breaking.py knows what else generated code is made of.
code=0
node_modules/.bin/openapi-diff "$old" "$new" || code=1
python3 breaking.py "$old" "$new" || code=1
[ $code = 0 ] && { echo "no breaking change"; exit 0; }
if awk '/^## /{n++} n==1' "$changelog" 2>/dev/null | grep -q '^- \*\*Breaking\*\*'; then
  echo "breaking, and CHANGELOG.md says so"; exit 0
fi
echo "a breaking change without a '- **Breaking**' line in CHANGELOG.md"; exit 1
