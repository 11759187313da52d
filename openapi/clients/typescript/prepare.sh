# Node 20 or newer, and the packages that package-lock.json names.
set -e
if ! command -v npm >/dev/null; then echo "there is no npm"; exit 77; fi
npm ci --silent --no-fund --no-audit || { echo "the packages can't be had"; exit 77; }
npm run --silent generate
npm run --silent build
