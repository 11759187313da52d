"""Names parameters and bodies that a request must have now and need not have had before."""

import json
import sys

METHODS = ("get", "put", "post", "delete", "patch")


def required(file: str) -> dict[str, set[str]]:
    with open(file) as text:
        paths = json.load(text)["paths"]
    found = {}
    for path, item in paths.items():
        for method in METHODS:
            if operation := item.get(method):
                names = {f"{p['in']} {p['name']}" for p in operation.get("parameters", []) if p.get("required")}
                if operation.get("requestBody", {}).get("required"):
                    names.add("body")
                found[f"{method.upper()} {path}"] = names
    return found


before, now = required(sys.argv[1]), required(sys.argv[2])
more = [(call, name) for call in before.keys() & now.keys() for name in sorted(now[call] - before[call])]
for call, name in sorted(more):
    print(f"{call}: {name} is required now")
sys.exit(1 if more else 0)
