"$CLIENT_WORK/venv/bin/python" -m pytest -q -s tests
