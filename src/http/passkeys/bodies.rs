//! Request and response bodies for passkeys.

use poem_openapi::{Enum, Object};
use serde::Deserialize;
use serde_json::Value;
use uuid::Uuid;

use crate::domain::Error;
use crate::http::schema::Time;
use crate::service::passkeys::{Asserted, Created, Options, Passkey, Registered};

/// Options that a page passes to `navigator.credentials`.
#[derive(Clone, Object)]
#[oai(rename = "PasskeyOptions", rename_all = "camelCase")]
pub struct OptionsBody {
    /// A `PublicKeyCredentialCreationOptionsJSON` or `PublicKeyCredentialRequestOptionsJSON`, for
    /// `PublicKeyCredential.parseCreationOptionsFromJSON()` or `.parseRequestOptionsFromJSON()`.
    pub public_key: Value,
}

/// Type of a credential; there is only one.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Enum, Deserialize)]
#[oai(rename = "PublicKeyCredentialType")]
pub enum CredentialTypeBody {
    /// A key pair.
    #[serde(rename = "public-key")]
    #[oai(rename = "public-key")]
    PublicKey,
}

/// A new credential, as returned by `PublicKeyCredential.toJSON()`. Binary values are base64url without
/// padding.
#[derive(Clone, Object, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
#[oai(
    rename = "RegistrationCredential",
    rename_all = "camelCase",
    deny_unknown_fields
)]
pub struct RegistrationCredentialBody {
    /// Id of the credential.
    #[oai(validator(min_length = 1, max_length = 1366))]
    pub id: String,
    /// Id of the credential; must equal `id`.
    #[oai(validator(min_length = 1, max_length = 1366))]
    pub raw_id: String,
    /// Type of the credential.
    #[serde(rename = "type")]
    #[oai(rename = "type")]
    pub kind: CredentialTypeBody,
    /// Response of the authenticator.
    pub response: AttestationBody,
    /// Ignored.
    #[oai(nullable, validator(max_length = 32))]
    pub authenticator_attachment: Option<String>,
    /// Ignored.
    pub client_extension_results: Option<Value>,
}

/// Response of the authenticator to a registration: an `AuthenticatorAttestationResponseJSON`.
#[derive(Clone, Object, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
#[oai(rename = "AttestationResponse", rename_all = "camelCase", deny_unknown_fields)]
pub struct AttestationBody {
    /// The client data: the operation, challenge and origin as the browser saw them.
    #[serde(rename = "clientDataJSON")]
    #[oai(rename = "clientDataJSON", validator(min_length = 1, max_length = 8192))]
    pub client_data: String,
    /// The attestation object with the new credential.
    #[oai(validator(min_length = 1, max_length = 32768))]
    pub attestation_object: String,
    /// Transports by which the authenticator can be reached: `usb`, `internal`, `hybrid`, …
    #[oai(validator(max_items = 8))]
    pub transports: Option<Vec<String>>,
    /// Ignored: it is part of `attestationObject`.
    #[oai(validator(max_length = 32768))]
    pub authenticator_data: Option<String>,
    /// Ignored: it is part of `attestationObject`.
    #[oai(nullable, validator(max_length = 4096))]
    pub public_key: Option<String>,
    /// Ignored: it is part of `attestationObject`.
    pub public_key_algorithm: Option<i64>,
}

/// The use of a credential, as returned by `PublicKeyCredential.toJSON()`. Binary values are base64url without
/// padding.
#[derive(Clone, Object, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
#[oai(
    rename = "AuthenticationCredential",
    rename_all = "camelCase",
    deny_unknown_fields
)]
pub struct AuthenticationCredentialBody {
    /// Id of the credential.
    #[oai(validator(min_length = 1, max_length = 1366))]
    pub id: String,
    /// Id of the credential; must equal `id`.
    #[oai(validator(min_length = 1, max_length = 1366))]
    pub raw_id: String,
    /// Type of the credential.
    #[serde(rename = "type")]
    #[oai(rename = "type")]
    pub kind: CredentialTypeBody,
    /// Response of the authenticator.
    pub response: AssertionBody,
    /// Ignored.
    #[oai(nullable, validator(max_length = 32))]
    pub authenticator_attachment: Option<String>,
    /// Ignored.
    pub client_extension_results: Option<Value>,
}

/// Response of the authenticator to an authentication: an `AuthenticatorAssertionResponseJSON`.
#[derive(Clone, Object, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
#[oai(rename = "AssertionResponse", rename_all = "camelCase", deny_unknown_fields)]
pub struct AssertionBody {
    /// The client data: the operation, challenge and origin as the browser saw them.
    #[serde(rename = "clientDataJSON")]
    #[oai(rename = "clientDataJSON", validator(min_length = 1, max_length = 8192))]
    pub client_data: String,
    /// The authenticator data, with the hash of the relying party's id and the signature counter.
    #[oai(validator(min_length = 1, max_length = 8192))]
    pub authenticator_data: String,
    /// Signature over the authenticator data and the hash of the client data.
    #[oai(validator(min_length = 1, max_length = 2048))]
    pub signature: String,
    /// Id of the user. Optional, because the user is already known.
    #[oai(nullable, validator(max_length = 128))]
    pub user_handle: Option<String>,
}

/// A request to register a passkey.
#[derive(Clone, Object, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
#[oai(
    rename = "RegisterPasskeyRequest",
    rename_all = "camelCase",
    deny_unknown_fields
)]
pub struct RegisterPasskeyBody {
    /// Name of the passkey, for the user.
    #[oai(validator(min_length = 1, max_length = 64))]
    pub name: String,
    /// The new credential from the authenticator.
    pub credential: RegistrationCredentialBody,
    /// The enrolment code from the administrator, where the reset demanded one.
    #[oai(validator(max_length = 64))]
    pub enrolment_code: Option<String>,
}

/// A passkey.
#[derive(Clone, Debug, Object)]
#[oai(rename = "Passkey", rename_all = "camelCase")]
pub struct PasskeyBody {
    /// Id of the passkey.
    pub id: Uuid,
    /// Name of the passkey.
    pub name: String,
    /// When it was registered.
    pub created_at: Time,
    /// When it was last used; null if never.
    #[oai(nullable)]
    pub last_used_at: Option<Time>,
    /// When it was found to be cloned; null if it was not. A cloned passkey is no longer accepted: remove it
    /// and register another one.
    #[oai(nullable)]
    pub cloned_at: Option<Time>,
}

/// A passkey that was registered.
#[derive(Clone, Object)]
#[oai(rename = "RegisteredPasskey", rename_all = "camelCase")]
pub struct RegisteredPasskeyBody {
    /// The passkey.
    pub passkey: PasskeyBody,
    /// Eight recovery codes, shown only in this response, if it is the first second factor; null otherwise.
    #[oai(nullable)]
    pub recovery_codes: Option<Vec<String>>,
}

/// A login to be completed with a passkey.
#[derive(Clone, Object, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
#[oai(
    rename = "PasskeyLoginOptionsRequest",
    rename_all = "camelCase",
    deny_unknown_fields
)]
pub struct LoginOptionsBody {
    /// `mfaChallengeToken` from the response to the login.
    #[oai(validator(max_length = 128))]
    pub mfa_challenge_token: String,
}

/// A passkey that answers the MFA challenge of a login.
#[derive(Clone, Object, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
#[oai(
    rename = "VerifyMfaWithPasskeyRequest",
    rename_all = "camelCase",
    deny_unknown_fields
)]
pub struct VerifyWithPasskeyBody {
    /// `mfaChallengeToken` from the response to the login.
    #[oai(validator(max_length = 128))]
    pub mfa_challenge_token: String,
    /// The authenticator's answer to the options.
    pub credential: AuthenticationCredentialBody,
}

/// A passkey for a step-up.
#[derive(Clone, Object, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
#[oai(
    rename = "StepUpWithPasskeyRequest",
    rename_all = "camelCase",
    deny_unknown_fields
)]
pub struct StepUpWithPasskeyBody {
    /// The authenticator's answer to the options.
    pub credential: AuthenticationCredentialBody,
}

impl From<Options> for OptionsBody {
    fn from(Options(public_key): Options) -> Self {
        Self { public_key }
    }
}

impl From<Passkey> for PasskeyBody {
    fn from(passkey: Passkey) -> Self {
        Self {
            id: passkey.id,
            name: passkey.name,
            created_at: Time(passkey.created_at),
            last_used_at: passkey.last_used_at.map(Time),
            cloned_at: passkey.cloned_at.map(Time),
        }
    }
}

impl From<Registered> for RegisteredPasskeyBody {
    fn from(registered: Registered) -> Self {
        Self {
            passkey: registered.passkey.into(),
            recovery_codes: registered.recovery_codes.map(|codes| codes.0.to_vec()),
        }
    }
}

impl TryFrom<RegistrationCredentialBody> for Created {
    type Error = Error;

    fn try_from(body: RegistrationCredentialBody) -> Result<Self, Error> {
        same_id(&body.id, &body.raw_id)?;
        Ok(Self {
            credential_id: body.id,
            client_data: body.response.client_data,
            attestation: body.response.attestation_object,
            transports: body.response.transports.unwrap_or_default(),
        })
    }
}

impl TryFrom<AuthenticationCredentialBody> for Asserted {
    type Error = Error;

    fn try_from(body: AuthenticationCredentialBody) -> Result<Self, Error> {
        same_id(&body.id, &body.raw_id)?;
        Ok(Self {
            credential_id: body.id,
            client_data: body.response.client_data,
            authenticator_data: body.response.authenticator_data,
            signature: body.response.signature,
            user_handle: body.response.user_handle,
        })
    }
}

fn same_id(id: &str, raw_id: &str) -> Result<(), Error> {
    if id == raw_id {
        return Ok(());
    }
    Err(Error::field("credential.rawId", "is not the same as id"))
}

prints_no_secret!(
    OptionsBody,
    RegistrationCredentialBody,
    AttestationBody,
    AuthenticationCredentialBody,
    AssertionBody,
    RegisterPasskeyBody,
    RegisteredPasskeyBody,
    LoginOptionsBody,
    VerifyWithPasskeyBody,
    StepUpWithPasskeyBody
);
