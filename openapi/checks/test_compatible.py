"""The compatibility check finds what breaks clients, and lets pass what doesn't or what the changelog says.

python3 openapi/checks/test_compatible.py: changes today's document in each of these ways.
"""

import copy
import json
import subprocess
import sys
import tempfile
from pathlib import Path

HERE = Path(__file__).resolve().parent
NOW = json.loads((HERE.parent / "openapi.json").read_text())
RESET = "/api/v1/users/{id}/reset-mfa"


def reset(document: dict) -> dict:
    return document["paths"][RESET]["post"]


def schema(document: dict, name: str) -> dict:
    return document["components"]["schemas"][name]


def drop(value: dict, key: str) -> None:
    del value[key]


def rename_type(document: dict) -> None:
    text = json.dumps(document).replace('schemas/User"', 'schemas/Person"')
    document |= json.loads(text)
    document["components"]["schemas"]["Person"] = document["components"]["schemas"].pop("User")


def drop_field(document: dict) -> None:
    del schema(document, "ResetMfaResponse")["properties"]["approvalId"]


NEW_PARAMETER = {"name": "why", "in": "query", "description": "Why", "schema": {"type": "string"}}

BREAKING = {
    "an operation is gone": lambda d: drop(d["paths"], "/api/v1/auth/logout"),
    "an operation has another name": lambda d: reset(d).update(operationId="resetUserMfa"),
    "a type has another name": rename_type,
    "a required field of an answer is gone": lambda d: (
        drop(schema(d, "User")["properties"], "email"), schema(d, "User")["required"].remove("email")),
    "an optional field of an answer is gone": drop_field,
    "a field of an answer is optional now": lambda d: schema(d, "User")["required"].remove("email"),
    "a field of an answer may be null now": lambda d: schema(d, "User")["properties"]["email"].update(nullable=True),
    "a field of an answer has another type": lambda d: schema(d, "User")["properties"]["email"].update(type="integer"),
    "a status is gone": lambda d: drop(reset(d)["responses"], "202"),
    "a header is gone": lambda d: drop(d["components"]["responses"]["TooManyRequests"]["headers"], "Retry-After"),
    "a field of a body is required now": lambda d: schema(d, "ResetMfaRequest").update(required=["reason"]),
    "a field of a body is refused now": lambda d: drop(schema(d, "ResetMfaRequest")["properties"], "ticket"),
    "a field of a body is shorter": lambda d: schema(d, "ResetMfaRequest")["properties"]["reason"].update(maxLength=5),
    "a body is required now": lambda d: reset(d)["requestBody"].update(required=True),
    "a new parameter is required": lambda d: reset(d)["parameters"].append({**NEW_PARAMETER, "required": True}),
    "a parameter is gone": lambda d: reset(d)["parameters"].pop(),
    "a token is needed where none was": lambda d: d["paths"]["/api/v1/auth/login"]["post"].update(
        security=[{"bearerAuth": []}]),
    "a body's list is shorter": lambda d: schema(d, "ApiKeyScope")["enum"].remove("users:read"),
    "a parameter's list is shorter": lambda d: schema(d, "ApprovalState")["enum"].remove("expired"),
    "a body takes a list alone": lambda d: schema(d, "ResetMfaRequest")["properties"]["reason"].update(enum=["lost"]),
    "an answer's list is longer": lambda d: schema(d, "ApprovalVerb")["enum"].append("unlock"),
    "a list of both is longer": lambda d: schema(d, "Role")["enum"].append("AUDITOR"),
    "a list of both is shorter": lambda d: schema(d, "Role")["enum"].remove("HELP_DESK"),
    "an answer's list is none any more": lambda d: drop(schema(d, "ApprovalVerb"), "enum"),
}
HARMLESS = {
    "nothing": lambda d: None,
    "other words": lambda d: reset(d).update(description="In other words.", summary="Other"),
    "a new operation": lambda d: d["paths"].update({"/api/v1/new": {"get": {**reset(d), "operationId": "new"}}}),
    "a new optional parameter": lambda d: reset(d)["parameters"].append(NEW_PARAMETER),
    "a new field of an answer": lambda d: schema(d, "User")["properties"].update(nick={"type": "string"}),
    "a new optional field of a body": lambda d: schema(d, "ResetMfaRequest")["properties"].update(
        desk={"type": "string"}),
    "a body's list is longer": lambda d: schema(d, "ApiKeyScope")["enum"].append("approvals:read"),
    "an answer's list is shorter": lambda d: schema(d, "ActivityActor")["enum"].remove("SYSTEM"),
    "an answer has a list now": lambda d: schema(d, "AuditLog")["properties"]["result"].update(enum=["SUCCESS"]),
    "a body takes more than a list": lambda d: drop(schema(d, "ApiKeyScope"), "enum"),
    "a new status": lambda d: reset(d)["responses"].update({"418": {"description": "Teapot"}}),
}
# What the check has to call it, where there are two ways to break somebody.
CALLS = {
    "a body's list is shorter": "no longer taken: ApiKeyScope users:read (POST /api/v1/api-keys: body.scopes)",
    "a parameter's list is shorter": "no longer taken: ApprovalState expired (GET /api/v1/approvals: query state)",
    "a body takes a list alone": f"only a list is taken now: POST {RESET}: body.reason",
    "an answer's list is longer": "new in a closed list of answers: ApprovalVerb unlock (",
    "a list of both is longer": "new in a closed list of answers: Role AUDITOR (",
    "a list of both is shorter": "no longer taken: Role HELP_DESK (",
    "an answer's list is none any more": "no closed list any more in answers: ApprovalVerb (",
}

SILENT = "## 0.2.0\n\n- New things\n\n## 0.1.0\n\n- **Breaking**: of old\n"
TOLD = "## 0.2.0\n\n- **Breaking**: as it is told\n"
# The whole check takes seconds: it is asked for what only openapi-diff finds, and for one of each ending.
WHOLE = [
    ("a field of a body is shorter", SILENT, 1),
    ("a token is needed where none was", TOLD, 0),
    ("all that is harmless", SILENT, 0),
]


def all_harmless(document: dict) -> None:
    for change in HARMLESS.values():
        change(document)


def compare(change, command: list, changelog: str = SILENT) -> tuple[int, str]:
    changed = copy.deepcopy(NOW)
    change(changed)
    with tempfile.TemporaryDirectory() as name:
        files = [Path(name) / file for file in ("old.json", "new.json", "CHANGELOG.md")]
        for file, text in zip(files, (json.dumps(NOW), json.dumps(changed), changelog)):
            file.write_text(text)
        files = files[: 2 if command[0] == sys.executable else 3]
        done = subprocess.run([*command, *files], capture_output=True, text=True)
    return done.returncode, done.stdout + done.stderr


def main() -> int:
    whole = {name for name, _, _ in WHOLE}
    breaking = [sys.executable, HERE / "breaking.py"]
    cases = [(name, change, breaking, SILENT, 1) for name, change in BREAKING.items() if name not in whole]
    cases += [(name, change, breaking, SILENT, 0) for name, change in HARMLESS.items()]
    changes = BREAKING | {"all that is harmless": all_harmless}
    cases += [(name, changes[name], [HERE / "compatible.sh"], log, code) for name, log, code in WHOLE]
    wrong = 0
    for name, change, command, changelog, expected in cases:
        code, said = compare(change, command, changelog)
        if code == 77:
            print(said.splitlines()[-1])
            return 77
        lines = said.splitlines() or ["finds nothing"]
        called = not (command is breaking and name in CALLS) or (
            len(lines) == 1 and lines[0].startswith(CALLS[name]))
        if code == expected and called:
            print(f"ok       {name}: {lines[0] if command is breaking else lines[-1]}")
        else:
            wrong += 1
            print(f"FAILED   {name}: exit {code}, expected {expected}\n{said}")
    print(f"{len(cases) - wrong} passed, {wrong} failed")
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
