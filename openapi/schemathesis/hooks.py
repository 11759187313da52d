"""Who Schemathesis is. Sessions that a call may end are of their own, so that the rest go on."""

import json
import os
import urllib.request

import schemathesis

ROLE = os.environ["ROLE"]
URL = os.environ["BASE_URL"]
ENDS_SESSIONS = {"logout", "endSession", "endOtherSessions", "endUserSessions"}


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
