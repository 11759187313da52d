"""Resets the MFA of one user:  python reset_mfa.py dev.raman@juniper.example "Lost phone" HD-4711"""

import os
import sys
from uuid import uuid4

from latchkey import LatchkeyError, retrying, sign_in, unwrap
from latchkey_client.api.reset import reset_mfa
from latchkey_client.api.users import list_users
from latchkey_client.models import ResetMfaRequest
from latchkey_client.types import UNSET


def main(email: str, reason: str | None = None, ticket: str | None = None) -> int:
    organization, admin, password = (
        os.environ[f"LATCHKEY_{name}"] for name in ("ORGANIZATION", "EMAIL", "PASSWORD")
    )
    try:
        client, _ = sign_in(os.environ["LATCHKEY_URL"], organization, admin, password, lambda: input("Code: "))
        users = unwrap(list_users.sync_detailed(client=client, query=email))
        user = next((each for each in users if each.email == email), None)
        if user is None:
            print(f"Nobody has the address {email}", file=sys.stderr)
            return 1
        # The same key for every attempt: however often it is sent, there is one reset.
        key = str(uuid4())
        body = ResetMfaRequest(reason=reason or UNSET, ticket=ticket or UNSET)
        outcome = retrying(
            lambda: unwrap(
                reset_mfa.sync_detailed(user.id, client=client, body=body, idempotency_key=key)
            )
        )
    except LatchkeyError as error:
        print(f"{error} (request {error.request_id})", file=sys.stderr)
        return 1
    print(outcome.message)
    # Shown only now: a repeat of the call does not have the code.
    if outcome.enrolment_code:
        print(f"Code for the user, in person or by phone: {outcome.enrolment_code}")
    if outcome.approval_id:
        print(f"Another administrator must approve it: approval {outcome.approval_id}")
    return 0


if __name__ == "__main__":
    if not 2 <= len(sys.argv) <= 4:
        sys.exit("usage: reset_mfa.py EMAIL [REASON [TICKET]], with LATCHKEY_URL, _ORGANIZATION, _EMAIL, _PASSWORD set")
    sys.exit(main(*sys.argv[1:]))
