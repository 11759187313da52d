#!/bin/bash
# Makes a project of each template as `latchkey plugin new` does, and builds it with the tools of its README.
#   plugins/check-templates.sh DIR [LANG...]      the built plugins stay in DIR as NAME.wasm
# Needs npm, python3 with venv and cargo, and their registries; with LATCHKEY set to the binary, the golden cases are run, too.
set -euo pipefail
[ $# -ge 1 ] || { sed -n 2,4p "$0"; exit 2; }
mkdir -p "$1"; OUT=$(realpath "$1"); shift
cd "$(dirname "$(realpath "$0")")"
. ./toolchain.sh
PLUGINS=$PWD

[ $# -gt 0 ] || set -- rust javascript python c
for lang in "$@"; do
  name=daily-limit-$lang dir=$OUT/$lang
  rm -rf "$dir"; cp -r "templates/$lang" "$dir"
  mkdir "$dir/wit"; cp wit/v1/policy.wit "$dir/wit"
  case $lang in
    rust) cp -rL sdk "$dir/sdk" ;;
    c) cp -r sdk-c "$dir/sdk" ;;
  esac
  grep -rlF '{{name}}' "$dir" | xargs sed -i "s/{{name}}/$name/g"
  cd "$dir"
  case $lang in
    rust)
      (toolchain && CARGO_TARGET_DIR=$PLUGINS/target cargo build -q --release --target $TARGET)
      cp "$PLUGINS/target/$TARGET/release/${name//-/_}.wasm" $name.wasm ;;
    javascript)
      npm install --silent --no-fund --no-audit && npm run -s build >/dev/null ;;
    python)
      python3 -m venv .venv && .venv/bin/pip -q install -r requirements.txt
      .venv/bin/componentize-py -d wit -w policy componentize --stub-wasi policy -o $name.wasm >/dev/null ;;
    c)
      python3 -m venv .venv && .venv/bin/pip -q install ziglang==0.17.1
      .venv/bin/python -m ziglang cc -target wasm32-wasi -Os -mexec-model=reactor -Wl,--strip-all -I sdk \
        -o $name.wasm plugin.c sdk/policy.c sdk/contract.c ;;
  esac
  say "$(stat -c %s $name.wasm) bytes  $name.wasm"
  [ -z "${LATCHKEY:-}" ] || "$LATCHKEY" plugin test $name.wasm cases
  cp $name.wasm "$OUT"
  cd "$PLUGINS"
done
