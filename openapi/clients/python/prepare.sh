# Python 3.11 or newer, and the packages that requirements.txt names.
set -e
if ! command -v python3 >/dev/null; then echo "there is no python3"; exit 77; fi
venv=$CLIENT_WORK/venv
[ -x "$venv/bin/python" ] || python3 -m venv "$venv"
"$venv/bin/pip" install -q -r requirements.txt || { echo "the packages can't be had"; exit 77; }
PATH=$venv/bin:$PATH
rm -rf latchkey_client
openapi-python-client generate --path "$OPENAPI" --config generator.yaml --output-path latchkey_client --meta none \
  --fail-on-warning
# The generated code is checked where ours meets it, not for itself.
mypy --no-error-summary --follow-imports=silent latchkey.py reset_mfa.py tests
