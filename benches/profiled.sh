#!/bin/bash
# Builds target/dist/latchkey by profile: once so that it counts what it executes, then, after resets, reads, pages of
# the trail and logins have been counted, as the counts say. Takes three quarters of an hour on two cores.
# Needs wrk, and llvm-profdata of this Rust's own LLVM, which rustup has.
set -euo pipefail
cd "$(dirname "$(realpath "$0")")/.."

command -v wrk > /dev/null || { echo "profiled: wrk is needed (Debian: apt-get install wrk)" >&2; exit 1; }
host=$(rustc -vV | sed -n 's/^host: //p')
profdata=$(rustc --print sysroot)/lib/rustlib/$host/bin/llvm-profdata
[ -x "$profdata" ] || rustup component add llvm-tools
work=$PWD/target/profiled
rm -rf "$work/counts"; mkdir -p "$work/counts"

# With --target, flags are for the binary and not for macros and build scripts. Linking all of it at once would take
# longer than it is worth here: counts are of the code before it is linked.
RUSTFLAGS=-Cprofile-generate=$work/counts cargo build --locked --profile dist --bin latchkey --target "$host" \
  --target-dir "$work" --config 'profile.dist.lto="thin"' --config 'profile.dist.codegen-units=4'
cargo bench --locked --bench load -- --server "$work/$host/dist/latchkey" --users 60000 --seconds 4 --connections 1,64
"$profdata" merge -o "$work/latchkey.profdata" "$work/counts"

RUSTFLAGS=-Cprofile-use=$work/latchkey.profdata cargo build --locked --profile dist --bin latchkey --target "$host"
mkdir -p target/dist
cp "target/$host/dist/latchkey" target/dist/latchkey
echo "target/dist/latchkey"
