#!/bin/bash
# Needs zig (PyPI: `pip install ziglang==0.17.1`, then ZIG="python3 -m ziglang"), or a clang with wasi-libc.
set -euo pipefail
cd "$(dirname "$0")"
SDK=../../sdk-c
${ZIG:-python3 -m ziglang} cc -target wasm32-wasi -Os -mexec-model=reactor -Wl,--strip-all -I $SDK \
  -o reset-budget.wasm plugin.c $SDK/policy.c $SDK/contract.c
