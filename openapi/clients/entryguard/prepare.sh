# A client generated for EntryGuard, with the generator of the Python client.
set -e
if ! command -v python3 >/dev/null; then echo "there is no python3"; exit 77; fi
venv=$CLIENT_WORK/venv
[ -x "$venv/bin/python" ] || python3 -m venv "$venv"
"$venv/bin/pip" install -q -r ../python/requirements.txt || { echo "the packages can't be had"; exit 77; }
PATH=$venv/bin:$PATH
rm -rf "$CLIENT_WORK/entryguard_client"
openapi-python-client generate --path entryguard.yaml --output-path "$CLIENT_WORK/entryguard_client" --meta none --fail-on-warning
