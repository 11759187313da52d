"""The story of a lost device, from the first login to the new one, with typed results and typed errors."""

import datetime
import os
import subprocess
import sys
import time
from http import HTTPStatus
from uuid import UUID, uuid4

import pyotp
import pytest

from latchkey import LatchkeyError, retrying, sign_in, unwrap
from latchkey_client import AuthenticatedClient
from latchkey_client.api.mfa import confirm_mfa, disable_mfa, set_up_mfa
from latchkey_client.api.reset import reset_mfa
from latchkey_client.api.sessions import end_session, list_sessions
from latchkey_client.api.users import list_users
from latchkey_client.models import (
    ApiError,
    Denial,
    MfaCodeRequest,
    MfaConfirmRequest,
    ResetMfaRequest,
    ResetMfaResponse,
)
from latchkey_client.types import UNSET, Response

URL = os.environ["LATCHKEY_URL"]
ADMIN = ("juniper", "amara.okafor@juniper.example", "sample-amara-0003")
ADMIN_SECRET = "NFDMQGXONIZD2IJW5VSTRRX4HSDMXTNS"
DEV = ("juniper", "dev.raman@juniper.example", "sample-dev-0004")
NOBODY = UUID("770e8400-e29b-41d4-a716-44665544ffff")


def reset(client: AuthenticatedClient, user: UUID, key: str | None = None) -> Response[ApiError | ResetMfaResponse]:
    body = ResetMfaRequest(reason="Lost phone", ticket="HD-4711")
    return reset_mfa.sync_detailed(user, client=client, body=body, idempotency_key=key or UNSET)


def refused(call) -> LatchkeyError:
    with pytest.raises(LatchkeyError) as caught:
        unwrap(call())
    return caught.value


def no_second_factor() -> str:
    raise AssertionError("no second factor is left")


def test_a_device_is_lost_reset_and_replaced() -> None:
    client, _ = sign_in(URL, *ADMIN, lambda: pyotp.TOTP(ADMIN_SECRET).now())
    print("story: the admin logged in with TOTP")

    listed = list_users.sync_detailed(client=client, query="raman", page=0, size=10)
    (user,) = unwrap(listed)
    assert listed.headers["x-total-count"] == "1"
    assert user.mfa_enabled and isinstance(user.id, UUID)

    key = str(uuid4())
    assert unwrap(reset(client, user.id, key)).message == "MFA reset successfully"
    assert unwrap(reset(client, user.id, key)).message == "MFA reset successfully"
    print("story: the reset was done once, however often it was sent with its key")

    limited, must_set_up = sign_in(URL, *DEV, no_second_factor)
    assert must_set_up
    assert refused(lambda: list_sessions.sync_detailed(client=limited)).status == 403
    shown = unwrap(set_up_mfa.sync_detailed(client=limited))
    totp = pyotp.TOTP(shown.secret)
    confirmation = MfaConfirmRequest(secret=shown.secret, code=totp.now())
    codes = unwrap(confirm_mfa.sync_detailed(client=limited, body=confirmation))
    assert len(codes.recovery_codes) == 8
    # The code that confirmed is used up; the next one is taken half a minute early.
    dev, must_set_up = sign_in(URL, *DEV, lambda: totp.at(int(time.time()) + 30))
    assert not must_set_up
    assert any(session.current for session in unwrap(list_sessions.sync_detailed(client=dev)))
    print("story: the developer logged in with the password alone, set MFA up and logged in with the new code")

    denied = refused(lambda: reset(client, user.id))
    assert denied.status == 403
    assert isinstance(denied.body.denial, Denial)
    assert (denied.body.denial.plugin, denied.body.denial.code) == ("reset-budget", "user-reset-budget")
    assert isinstance(denied.body.denial.allowed_from, datetime.datetime)
    assert denied.body.denial.allowed_from > datetime.datetime.now(datetime.UTC)
    print(f"story: a policy denied the next: {denied}")

    long = ResetMfaRequest(reason="x" * 501)
    invalid = refused(lambda: reset_mfa.sync_detailed(user.id, client=client, body=long))
    assert invalid.status == 400
    assert invalid.body.validation_errors and "reason" in invalid.body.validation_errors.additional_properties

    unknown = refused(lambda: reset(client, NOBODY))
    assert unknown.status == 404
    assert str(unknown) == f"User not found with id: {NOBODY}"
    assert unknown.request_id and UUID(unknown.request_id)
    print("story: 404 came as a typed error")

    for _ in range(10):
        with pytest.raises(LatchkeyError) as caught:
            retrying(lambda: unwrap(reset(client, NOBODY)), attempts=1)
        if caught.value.status == 429:
            break
    assert caught.value.status == 429
    assert caught.value.retry_after_seconds and caught.value.retry_after_seconds > 0
    print(f"story: 429 came with Retry-After: {caught.value.retry_after_seconds}")

    # What was done is answered with its key again, once the limit lets it: in one try more, so at the time that was told.
    while reset(client, user.id, key).status_code != 429:
        pass
    began = time.monotonic()
    done = retrying(lambda: unwrap(reset(client, user.id, key)), attempts=2)
    assert done.message == "MFA reset successfully"
    seconds = time.monotonic() - began
    assert 2 < seconds < 10
    print(f"story: the client waited for {seconds:.0f} s, as it was told, and succeeded")

    # 204 and 200, both without a body: what was done is no error.
    own = [session for session in unwrap(list_sessions.sync_detailed(client=dev)) if not session.current]
    other, _ = sign_in(URL, *DEV, lambda: codes.recovery_codes[0])
    (there,) = [
        session
        for session in unwrap(list_sessions.sync_detailed(client=dev))
        if not session.current and session.id not in {each.id for each in own}
    ]
    unwrap(end_session.sync_detailed(there.id, client=dev))
    assert refused(lambda: list_sessions.sync_detailed(client=other)).status == 401
    unwrap(disable_mfa.sync_detailed(client=dev, body=MfaCodeRequest(code=codes.recovery_codes[1])))
    sign_in(URL, *DEV, no_second_factor)
    print("story: the developer ended the other session and switched MFA off")


def test_an_answer_of_something_in_between_is_an_error() -> None:
    empty: Response[ApiError | ResetMfaResponse] = Response(HTTPStatus.BAD_GATEWAY, b"", {}, None)
    with pytest.raises(RuntimeError, match="502 is not in the document"):
        unwrap(empty)


def test_the_example_program_says_what_the_api_said() -> None:
    env = {**os.environ, "LATCHKEY_ORGANIZATION": ADMIN[0], "LATCHKEY_EMAIL": ADMIN[1], "LATCHKEY_PASSWORD": "wrong"}
    run = subprocess.run([sys.executable, "reset_mfa.py", DEV[1]], env=env, capture_output=True, text=True)
    assert run.returncode == 1
    assert run.stderr.startswith("Invalid credentials (request ")
