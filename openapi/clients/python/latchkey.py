"""A thin layer over the generated client: sign in, errors as exceptions, retries that are safe."""

import time
from collections.abc import Callable
from typing import TypeVar, cast

from latchkey_client import AuthenticatedClient, Client
from latchkey_client.api.authentication import login, verify_mfa
from latchkey_client.models import ApiError, LoginRequest, VerifyMfaRequest
from latchkey_client.types import Response

T = TypeVar("T")


class LatchkeyError(Exception):
    """What the API refused, with everything that it said of it."""

    def __init__(self, body: ApiError, response: Response):
        super().__init__(body.message)
        self.body = body
        self.status = body.status
        # For the log line and the audit entry of this very request.
        self.request_id = response.headers.get("x-request-id")
        retry_after = response.headers.get("retry-after")
        self.retry_after_seconds = int(retry_after) if retry_after else None


def unwrap(response: Response[ApiError | T]) -> T:
    """The answer's data, or its error as an exception. The data of a success without a body is None."""
    if isinstance(response.parsed, ApiError):
        raise LatchkeyError(response.parsed, response)
    if not 200 <= response.status_code < 300:
        raise RuntimeError(f"{response.status_code:d} is not in the document")
    return cast(T, response.parsed)


def sign_in(
    base_url: str, organization: str, email: str, password: str, code: Callable[[], str]
) -> tuple[AuthenticatedClient, bool]:
    """Logs in, asking for a code where MFA is on. Also says whether MFA has to be set up first."""
    with Client(base_url=base_url) as client:
        request = LoginRequest(organization_slug=organization, email=email, password=password)
        answer = unwrap(login.sync_detailed(client=client, body=request))
        if answer.mfa_challenge_token is not None:
            challenge = VerifyMfaRequest(mfa_challenge_token=answer.mfa_challenge_token, code=code())
            tokens = unwrap(verify_mfa.sync_detailed(client=client, body=challenge))
            return AuthenticatedClient(base_url=base_url, token=tokens.access_token), False
    if answer.access_token is None:
        raise RuntimeError("the password has expired")
    return AuthenticatedClient(base_url=base_url, token=answer.access_token), answer.mfa_setup_required


def retrying(call: Callable[[], T], attempts: int = 4) -> T:
    """Repeats what was limited or met a busy server. Only for calls that may be made twice, or have a key."""
    for attempt in range(1, attempts + 1):
        try:
            return call()
        except LatchkeyError as error:
            if error.status not in (429, 503) or attempt == attempts:
                raise
            time.sleep(error.retry_after_seconds or 2**attempt)
    raise AssertionError("attempts is at least 1")
