#!/bin/bash
# Builds the example policies in JavaScript, Python and C, as NAME-js.wasm, NAME-py.wasm and NAME-c.wasm.
#   plugins/build-others.sh DIR [NAME...]      without names: all of them
# Their tools come from npm and PyPI, in the versions that the examples name (exit 77: they can't be had), and stay in
# DIR/tools. C makes the same bytes each time. JavaScript and Python don't, since they keep a snapshot of a running
# interpreter; whether a build behaves as it must, its golden cases say:
#   LATCHKEY_PLUGINS=DIR cargo test --test plugin_examples
set -euo pipefail
[ $# -ge 1 ] || { sed -n 2,8p "$0"; exit 2; }
mkdir -p "$1"; OUT=$(realpath "$1"); shift
cd "$(dirname "$(realpath "$0")")/examples"
[ $# -gt 0 ] || set -- *-js *-py *-c
cannot() { echo "$1 can't be had here"; exit 77; }

# A virtual environment with these packages.
packages() {
  local tools=$OUT/tools/$1; shift
  [ -x "$tools/bin/python" ] || python3 -m venv "$tools" || cannot "a virtual environment of Python's"
  "$tools/bin/pip" -q --disable-pip-version-check install "$@" || cannot "$*"
}

for name in "$@"; do
  policy=${name%-*}
  case $name in
    *-js)
      command -v npm >/dev/null || cannot npm
      (cd "$name" && npm install --silent --no-fund --no-audit --no-package-lock) || cannot "what $name is built with"
      (cd "$name" && npm run --silent build >/dev/null 2>&1 && mv "$policy.wasm" "$OUT/$name.wasm") ;;
    *-py)
      packages python -r "$name/requirements.txt"
      (cd "$name" && "$OUT/tools/python/bin/componentize-py" -d ../../wit/v1 -w policy componentize --stub-wasi policy \
        -o "$OUT/$name.wasm" >/dev/null) ;;
    *-c)
      packages c "$(sed -n 's/.*pip install \(ziglang==[0-9.]*\).*/\1/p' "$name/build.sh")"
      ZIG="$OUT/tools/c/bin/python -m ziglang" "$name/build.sh" && mv "$name/$policy.wasm" "$OUT/$name.wasm" ;;
  esac
  echo "$(stat -c %s "$OUT/$name.wasm") bytes  $name.wasm"
done
