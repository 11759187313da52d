"""A client that was generated for EntryGuard works against Latchkey with another base URL, and nothing else."""

import os
from uuid import UUID

import pyotp

from entryguard_client import AuthenticatedClient, Client
from entryguard_client.api.auth import login, verify_mfa
from entryguard_client.api.users import list_users, reset_user_mfa
from entryguard_client.models import (
    ErrorResponse,
    LoginRequest,
    LoginResponse,
    MessageResponse,
    TokenResponse,
    VerifyMfaRequest,
)

# All that is changed.
URL = os.environ["LATCHKEY_URL"]


def signed_in() -> AuthenticatedClient:
    client = Client(base_url=URL)
    who = LoginRequest(
        organization_slug="juniper", email="amara.okafor@juniper.example", password="sample-amara-0003"
    )
    challenge = login.sync(client=client, body=who)
    assert isinstance(challenge, LoginResponse) and challenge.mfa_required and challenge.mfa_challenge_token
    shown = VerifyMfaRequest(
        mfa_challenge_token=challenge.mfa_challenge_token, code=pyotp.TOTP("NFDMQGXONIZD2IJW5VSTRRX4HSDMXTNS").now()
    )
    tokens = verify_mfa.sync(client=client, body=shown)
    assert isinstance(tokens, TokenResponse) and tokens.token_type == "Bearer"
    return AuthenticatedClient(base_url=URL, token=tokens.access_token)


def test_only_the_base_url_changes() -> None:
    client = signed_in()
    print("story: login and verify-mfa in EntryGuard's shape")
    users = list_users.sync(client=client)
    assert isinstance(users, list)
    (user,) = [each.id for each in users if each.email == "dev.raman@juniper.example" and each.mfa_enabled]

    done = reset_user_mfa.sync(user, client=client)
    assert isinstance(done, MessageResponse) and done.message == "MFA reset successfully"
    print("story: 200 as MessageResponse")

    nobody = UUID("770e8400-e29b-41d4-a716-44665544ffff")
    for who, status, message in [
        (user, 400, "MFA is not enabled for this user"),
        (nobody, 404, f"User not found with id: {nobody}"),
    ]:
        refused = reset_user_mfa.sync(who, client=client)
        assert isinstance(refused, ErrorResponse)
        assert (refused.status, refused.message) == (status, message)
    wrong = reset_user_mfa.sync(user, client=AuthenticatedClient(base_url=URL, token="wrong"))
    assert isinstance(wrong, ErrorResponse) and wrong.status == 401
    print("story: 400, 401 and 404 as ErrorResponse")
