//! What goes over the wire for passkeys.

use poem_openapi::{Enum, Object};
use serde::Deserialize;
use serde_json::Value;
use uuid::Uuid;

use crate::domain::Error;
use crate::http::schema::Time;
use crate::service::passkeys::{Asserted, Created, Options, Passkey, Registered};

/// What a page hands to `navigator.credentials`.
#[derive(Clone, Object)]
#[oai(rename = "PasskeyOptions", rename_all = "camelCase")]
pub struct OptionsBody {
    /// `PublicKeyCredentialCreationOptionsJSON` or `PublicKeyCredentialRequestOptionsJSON`: for
    /// `PublicKeyCredential.parseCreationOptionsFromJSON()` or `.parseRequestOptionsFromJSON()`.
    pub public_key: Value,
}

/// The one kind of credential there is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Enum, Deserialize)]
#[oai(rename = "PublicKeyCredentialType")]
pub enum CredentialTypeBody {
    /// A key pair.
    #[serde(rename = "public-key")]
    #[oai(rename = "public-key")]
    PublicKey,
}

/// A new credential, as `PublicKeyCredential.toJSON()` gives it. Bytes are base 64 for URLs, without padding.
#[derive(Clone, Object, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
#[oai(
    rename = "RegistrationCredential",
    rename_all = "camelCase",
    deny_unknown_fields
)]
pub struct RegistrationCredentialBody {
    /// Its id.
    #[oai(validator(min_length = 1, max_length = 1366))]
    pub id: String,
    /// Its id once more.
    #[oai(validator(min_length = 1, max_length = 1366))]
    pub raw_id: String,
    /// What it is.
    #[serde(rename = "type")]
    #[oai(rename = "type")]
    pub kind: CredentialTypeBody,
    /// What the authenticator says.
    pub response: AttestationBody,
    /// Not looked at.
    #[oai(nullable, validator(max_length = 32))]
    pub authenticator_attachment: Option<String>,
    /// Not looked at.
    pub client_extension_results: Option<Value>,
}

/// `AuthenticatorAttestationResponseJSON`.
#[derive(Clone, Object, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
#[oai(rename = "AttestationResponse", rename_all = "camelCase", deny_unknown_fields)]
pub struct AttestationBody {
    /// What the browser was asked, by whom and where.
    #[serde(rename = "clientDataJSON")]
    #[oai(rename = "clientDataJSON", validator(min_length = 1, max_length = 8192))]
    pub client_data: String,
    /// What the authenticator made.
    #[oai(validator(min_length = 1, max_length = 32768))]
    pub attestation_object: String,
    /// How it can be reached: `usb`, `internal`, `hybrid`, …
    #[oai(validator(max_items = 8))]
    pub transports: Option<Vec<String>>,
    /// Not looked at: it is part of `attestationObject`.
    #[oai(validator(max_length = 32768))]
    pub authenticator_data: Option<String>,
    /// Not looked at, likewise.
    #[oai(nullable, validator(max_length = 4096))]
    pub public_key: Option<String>,
    /// Not looked at, likewise.
    pub public_key_algorithm: Option<i64>,
}

/// The use of a credential, as `PublicKeyCredential.toJSON()` gives it. Bytes are base 64 for URLs, without
/// padding.
#[derive(Clone, Object, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
#[oai(
    rename = "AuthenticationCredential",
    rename_all = "camelCase",
    deny_unknown_fields
)]
pub struct AuthenticationCredentialBody {
    /// Its id.
    #[oai(validator(min_length = 1, max_length = 1366))]
    pub id: String,
    /// Its id once more.
    #[oai(validator(min_length = 1, max_length = 1366))]
    pub raw_id: String,
    /// What it is.
    #[serde(rename = "type")]
    #[oai(rename = "type")]
    pub kind: CredentialTypeBody,
    /// What the authenticator says.
    pub response: AssertionBody,
    /// Not looked at.
    #[oai(nullable, validator(max_length = 32))]
    pub authenticator_attachment: Option<String>,
    /// Not looked at.
    pub client_extension_results: Option<Value>,
}

/// `AuthenticatorAssertionResponseJSON`.
#[derive(Clone, Object, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
#[oai(rename = "AssertionResponse", rename_all = "camelCase", deny_unknown_fields)]
pub struct AssertionBody {
    /// What the browser was asked, by whom and where.
    #[serde(rename = "clientDataJSON")]
    #[oai(rename = "clientDataJSON", validator(min_length = 1, max_length = 8192))]
    pub client_data: String,
    /// For whom, and how often so far.
    #[oai(validator(min_length = 1, max_length = 8192))]
    pub authenticator_data: String,
    /// Over both.
    #[oai(validator(min_length = 1, max_length = 2048))]
    pub signature: String,
    /// Not looked at: the user is known.
    #[oai(nullable, validator(max_length = 128))]
    pub user_handle: Option<String>,
}

/// A passkey to be registered.
#[derive(Clone, Object, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
#[oai(
    rename = "RegisterPasskeyRequest",
    rename_all = "camelCase",
    deny_unknown_fields
)]
pub struct RegisterPasskeyBody {
    /// What to call it.
    #[oai(validator(min_length = 1, max_length = 64))]
    pub name: String,
    /// What the authenticator made.
    pub credential: RegistrationCredentialBody,
    /// The code that the administrator gave, where it was demanded with the reset.
    #[oai(validator(max_length = 64))]
    pub enrolment_code: Option<String>,
}

/// A passkey.
#[derive(Clone, Debug, Object)]
#[oai(rename = "Passkey", rename_all = "camelCase")]
pub struct PasskeyBody {
    /// Id.
    pub id: Uuid,
    /// What it is called.
    pub name: String,
    /// When it was registered.
    pub created_at: Time,
    /// When it was used last.
    #[oai(nullable)]
    pub last_used_at: Option<Time>,
    /// When a copy of it showed up. It opens nothing since: remove it and register another.
    #[oai(nullable)]
    pub cloned_at: Option<Time>,
}

/// A passkey that was registered.
#[derive(Clone, Object)]
#[oai(rename = "RegisteredPasskey", rename_all = "camelCase")]
pub struct RegisteredPasskeyBody {
    /// It.
    pub passkey: PasskeyBody,
    /// Eight recovery codes, shown once, where it is the first second factor; else null.
    #[oai(nullable)]
    pub recovery_codes: Option<Vec<String>>,
}

/// The challenge of a login.
#[derive(Clone, Object, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
#[oai(
    rename = "PasskeyLoginOptionsRequest",
    rename_all = "camelCase",
    deny_unknown_fields
)]
pub struct LoginOptionsBody {
    /// The challenge of the login.
    #[oai(validator(max_length = 128))]
    pub mfa_challenge_token: String,
}

/// A challenge and the passkey for it.
#[derive(Clone, Object, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
#[oai(
    rename = "VerifyMfaWithPasskeyRequest",
    rename_all = "camelCase",
    deny_unknown_fields
)]
pub struct VerifyWithPasskeyBody {
    /// The challenge of the login.
    #[oai(validator(max_length = 128))]
    pub mfa_challenge_token: String,
    /// What the authenticator says to the options.
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
    /// What the authenticator says to the options.
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
