#!/bin/bash
# Fuzzes with coverage as the guide: `fuzz/run.sh 300 tokens user_import` for 300 seconds each, `fuzz/run.sh 300` all
# targets. Needs a C++ compiler (libFuzzer) and no other Rust than the product: only the product itself is built
# anew, beside what `cargo build` made, so that the first run takes minutes and not half an hour.
# Inputs that reach new code are kept in fuzz/corpus, one that fails in fuzz/artifacts: run it again by
# `fuzz/run.sh FILE TARGET`. LATCHKEY_FUZZ_SEED=1 tries the same inputs as the last time with 1, as far as the time goes.
# Exit: 0 nothing found, 77 no C++ compiler, else an input was found.
set -euo pipefail
seconds=${1:-60}
[ -f "$seconds" ] && seconds=$(realpath "$seconds")
cd "$(dirname "$(realpath "$0")")"
shift || true
command -v c++ >/dev/null || { echo "no C++ compiler here, which libFuzzer needs"; exit 77; }
TMPDIR=$(mktemp -d)
export TMPDIR
trap 'rm -rf "$TMPDIR"' EXIT
# The product's versions of everything: what is fuzzed is what is shipped. And its effort at each dependency, or they
# would be built again.
cp ../Cargo.lock Cargo.lock
awk '/^\[/ { is = /^\[profile\.dev/ } is' ../Cargo.toml >"$TMPDIR/profile.toml"
RUSTC_WRAPPER=$PWD/instrumented cargo build --config "$TMPDIR/profile.toml" --target-dir ../target "${@/#/--bin=}"
[ $# -gt 0 ] || set -- $(sed -n 's/^name = "\(.*\)"$/\1/p' Cargo.toml | tail -n +2)
found=0
for target; do
  mkdir -p "corpus/$target" artifacts
  options=(-rss_limit_mb=4096 -timeout=10 "-artifact_prefix=artifacts/$target-")
  [ -z "${LATCHKEY_FUZZ_SEED:-}" ] || options+=("-seed=$LATCHKEY_FUZZ_SEED")
  [ -f "dictionaries/$target" ] && options+=("-dict=dictionaries/$target")
  if [ -f "$seconds" ]; then
    "../target/debug/$target" "${options[@]}" "$seconds" || found=1
    continue
  fi
  echo "== $target"
  "../target/debug/$target" "${options[@]}" "-max_total_time=$seconds" -max_len=16384 -print_final_stats=1 \
    "corpus/$target" "seeds/$target" >"$TMPDIR/log" 2>&1 || { found=1; tail -60 "$TMPDIR/log"; }
  # What it covered at last, how often it ran, what the slowest input took.
  grep -E '^#[0-9]+.*(DONE|cov:)' "$TMPDIR/log" | tail -1
  grep -E '^stat::(number_of_executed_units|average_exec_per_sec|slowest_unit_time_sec|peak_rss_mb)' "$TMPDIR/log" || true
done
exit $found
