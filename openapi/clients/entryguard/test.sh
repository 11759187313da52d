PYTHONPATH=$CLIENT_WORK "$CLIENT_WORK/venv/bin/python" -m pytest -q -s -p no:cacheprovider test_base_url.py
