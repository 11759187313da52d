#!/bin/bash
# What one call costs in each language: reset-budget, the same policy four times, a fresh instance for every call.
#   plugins/call-costs.sh [MORE.wasm...]     (LATCHKEY: the binary; PYTHON_BUILD: reset-budget built by componentize-py)
# Prints a table in Markdown: size, compilation (CPU), p50 and p99 of the clock, CPU, fuel and memory of a call.
set -euo pipefail
cd "$(dirname "$(realpath "$0")")/.."
LATCHKEY=$(realpath "${LATCHKEY:-target/release/latchkey}")
config='{"perUser":{"max":2,"days":30}}'
# Where nothing is kept from an earlier compilation.
XDG_CACHE_HOME=$(mktemp -d); export XDG_CACHE_HOME; trap 'rm -r "$XDG_CACHE_HOME"' EXIT
TIMEFORMAT=%U
row() {
  local name=$1 file=$2 config=$3 compiled
  compiled=$({ time "$LATCHKEY" plugin check "$file" >/dev/null; } 2>&1)
  "$LATCHKEY" plugin bench "$file" --config "$config" --calls 2000 --json | python3 -c '
import json, os, sys
b, (name, file, compiled) = json.load(sys.stdin), sys.argv[1:]
micros = ["%d µs" % b[key] for key in ("p50Micros", "p99Micros", "cpuMicros")]
size, memory = "%d KiB" % (os.path.getsize(file) // 1024), "%.1f MiB" % (b["peakMemoryBytes"] / 2**20)
cells = [name, size, "%.2f s" % float(compiled), *micros, format(b["fuel"], ","), memory]
print("| " + " | ".join(cells) + " |")' "$name" "$file" "$compiled"
}
echo '| policy | size | compiled | p50 | p99 | CPU | fuel | memory |'
echo '|---|---|---|---|---|---|---|---|'
row 'reset-budget, Rust' fixtures/plugins/reset-budget.wasm "$config"
row 'reset-budget, C' fixtures/plugins/reset-budget-c.wasm "$config"
row 'reset-budget, JavaScript' fixtures/plugins/reset-budget-js.wasm "$config"
if [ -n "${PYTHON_BUILD:-}" ]; then row 'reset-budget, Python' "$PYTHON_BUILD" "$config"; fi
row 'change-window, Rust' fixtures/plugins/change-window.wasm \
  '{"timeZone":"Europe/Berlin","days":["mon","tue","wed","thu","fri"],"from":"08:00","to":"18:00"}'
row 'cel-rules, Rust' fixtures/plugins/cel-rules.wasm \
  '{"rules":[{"name":"often","when":"question.history.targetResetsLast30Days >= 2","then":"deny","message":"Too often."}]}'
for file; do row "$(basename "$file" .wasm)" "$file" '{}'; done
