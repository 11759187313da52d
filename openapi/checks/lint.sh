#!/bin/bash
# Lints openapi/openapi.json: no error and no warning.
set -euo pipefail
cd "$(dirname "$(realpath "$0")")"
if ! command -v npm >/dev/null; then echo "there is no npm"; exit 77; fi
npm ci --silent --no-fund --no-audit --ignore-scripts || { echo "the linter can't be had"; exit 77; }
export REDOCLY_TELEMETRY=off REDOCLY_SUPPRESS_UPDATE_NOTICE=true
npx redocly lint --config redocly.yaml --max-problems 1000 --format codeframe ../openapi.json 2>&1 | tee /tmp/lint.$$
# The linter passes with warnings; we don't.
if grep -qE '^Warning was generated|[0-9]+ warning' /tmp/lint.$$; then rm -f /tmp/lint.$$; exit 1; fi
rm -f /tmp/lint.$$
