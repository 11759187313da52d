"$CLIENT_WORK/venv/bin/python" -m pytest -q -s tests &&
  bash ../example.sh "$CLIENT_WORK/venv/bin/python" reset_mfa.py
