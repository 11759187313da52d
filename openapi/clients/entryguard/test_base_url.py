"""A client that was generated for EntryGuard works against Latchkey with another base URL and token."""

import os
from uuid import UUID

import httpx
import pyotp

from entryguard_client import AuthenticatedClient
from entryguard_client.api.users import reset_user_mfa
from entryguard_client.models import ErrorResponse, MessageResponse

URL = os.environ["LATCHKEY_URL"]


def token() -> str:
    who = {"organizationSlug": "juniper", "email": "amara.okafor@juniper.example", "password": "sample-amara-0003"}
    login = httpx.post(f"{URL}/api/v1/auth/login", json=who).json()
    shown = {
        "mfaChallengeToken": login["mfaChallengeToken"],
        "code": pyotp.TOTP("NFDMQGXONIZD2IJW5VSTRRX4HSDMXTNS").now(),
    }
    return httpx.post(f"{URL}/api/v1/auth/verify-mfa", json=shown).json()["accessToken"]


def test_only_the_base_url_and_the_token_change() -> None:
    client = AuthenticatedClient(base_url=URL, token=token())
    user = UUID("770e8400-e29b-41d4-a716-446655440004")

    done = reset_user_mfa.sync(user, client=client)
    assert isinstance(done, MessageResponse) and done.message == "MFA reset successfully"
    print("story: 200 as MessageResponse")

    for who, status, message in [
        (user, 400, "MFA is not enabled for this user"),
        (UUID("770e8400-e29b-41d4-a716-44665544ffff"), 404, "User not found with id: 770e8400-e29b-41d4-a716-44665544ffff"),
    ]:
        refused = reset_user_mfa.sync(who, client=client)
        assert isinstance(refused, ErrorResponse)
        assert (refused.status, refused.message) == (status, message)
    wrong = reset_user_mfa.sync(user, client=AuthenticatedClient(base_url=URL, token="wrong"))
    assert isinstance(wrong, ErrorResponse) and wrong.status == 401
    print("story: 400, 401 and 404 as ErrorResponse")
