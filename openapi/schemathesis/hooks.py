"""Who Schemathesis is. Sessions that a call may end are of their own, so that the rest go on."""

import json
import os
import urllib.request
from pathlib import Path

import schemathesis

ROLE = os.environ["ROLE"]
URL = os.environ["BASE_URL"]
ENDS_SESSIONS = {"logout", "endSession", "endOtherSessions", "endUserSessions"}

DOCUMENT = json.loads((Path(__file__).parent.parent / "openapi.json").read_text())
SCHEMAS = DOCUMENT["components"]["schemas"]


def may_be_left_out(operation: dict) -> set[str]:
    """Fields of the operation's body that need not be there, and have no meaning for null of their own."""
    content = operation.get("requestBody", {}).get("content", {}).get("application/json", {})
    name = content.get("schema", {}).get("$ref", "").rpartition("/")[2]
    schema = SCHEMAS.get(name, {})
    fields = schema.get("properties", {}).items()
    return {f for f, is_ in fields if f not in schema.get("required", []) and not is_.get("nullable")}


@schemathesis.hook
def filter_case(context, case):
    """Null is taken for absent, since some clients send it for what they leave out; the types don't say so."""
    body = case.body if isinstance(case.body, dict) else {}
    return not any(body.get(field, "") is None for field in may_be_left_out(case.operation.definition.raw))


def log_in(organization: str) -> str:
    who = {"organizationSlug": organization, "email": f"{ROLE}@{organization}.example", "password": "sample-of-schemathesis"}
    request = urllib.request.Request(
        f"{URL}/api/v1/auth/login", json.dumps(who).encode(), {"Content-Type": "application/json"}
    )
    with urllib.request.urlopen(request) as answer:
        return json.load(answer)["accessToken"]


if ROLE != "anonymous":
    KEPT = log_in("first")

    @schemathesis.auth(refresh_interval=None)
    class Auth:
        def get(self, case, context):
            ends = case.operation.definition.raw.get("operationId") in ENDS_SESSIONS
            return log_in("second") if ends else KEPT

        def set(self, case, data, context):
            case.headers = {**(case.headers or {}), "Authorization": f"Bearer {data}"}
