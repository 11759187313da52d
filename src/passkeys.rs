//! Passkeys as a second factor (W3C Web Authentication Level 3, §7): creates the options for an authenticator
//! and verifies its answer. The only place that uses `webauthn-rs`; it knows no store, no clock, and a user
//! only by id and name.
//!
//! The state of a ceremony and a stored credential are opaque bytes to all other code.

mod relying_party;

pub use relying_party::Written;

use serde_json::{Value, json};
use webauthn_rs::prelude::{
    PublicKeyCredential, RegisterPublicKeyCredential, SecurityKey, SecurityKeyAuthentication,
    SecurityKeyRegistration, Webauthn, WebauthnError,
};

use crate::domain::account::User;
use crate::domain::{Error, Result};

/// The relying party: the domain that passkeys are bound to, and the origins that may use them.
#[derive(Clone, Debug, Default)]
pub struct RelyingParty {
    webauthn: Option<Webauthn>,
    id: Option<String>,
}

/// An authenticator's answer to a registration, in unpadded base64url, as browsers return it.
#[derive(Clone)]
pub struct Created {
    /// Id of the credential.
    pub credential_id: String,
    /// `clientDataJSON`.
    pub client_data: String,
    /// `attestationObject`.
    pub attestation: String,
    /// Transports by which the authenticator can be reached.
    pub transports: Vec<String>,
}

/// An authenticator's answer at a login or step-up, in unpadded base64url.
#[derive(Clone)]
pub struct Asserted {
    /// Id of the credential.
    pub credential_id: String,
    /// `clientDataJSON`.
    pub client_data: String,
    /// `authenticatorData`.
    pub authenticator_data: String,
    /// Signature over `authenticatorData` and the hash of `clientDataJSON`.
    pub signature: String,
    /// User handle, if the authenticator returns one.
    pub user_handle: Option<String>,
}

/// Options for the browser, and the state to keep until it answers.
pub struct Ceremony {
    /// Options for `navigator.credentials`, in the JSON form of Web Authentication Level 3 §5.1.8–9.
    pub options: Value,
    /// State for the end of the ceremony; must not leave the server.
    pub state: Vec<u8>,
}

/// A verified credential.
#[derive(Clone)]
pub struct Credential {
    /// Id, at most 1023 bytes.
    pub id: Vec<u8>,
    /// Signature counter of the authenticator; 0 if it has none.
    pub counter: u32,
    /// Serialised form for the store.
    pub kept: Vec<u8>,
}

/// Why an answer was rejected.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fault {
    /// It answers another challenge.
    Challenge,
    /// It was made for another origin.
    Origin,
    /// It was made for another relying party.
    RelyingParty,
    /// It is by a credential that was not asked for.
    UnknownCredential,
    /// The signature does not verify.
    Signature,
    /// User presence was not shown, or the user was not verified although they were before.
    Unattended,
    /// The counter went back, so a copy exists (§7.2 step 22).
    Cloned,
    /// It is malformed, or of a kind that is not accepted.
    Unusable,
}

impl Fault {
    /// Returns the stable reason code for the audit trail.
    #[must_use]
    pub fn reason(self) -> &'static str {
        match self {
            Self::Challenge => "wrong-challenge",
            Self::Origin => "foreign-origin",
            Self::RelyingParty => "foreign-relying-party",
            Self::UnknownCredential => "unknown-passkey",
            Self::Signature => "wrong-signature",
            Self::Unattended => "nobody-present",
            Self::Cloned => "counter-went-back",
            Self::Unusable => "unusable",
        }
    }

    /// Returns the message for a user who registers a passkey. It may be specific: the user is authenticated,
    /// and the cause may be a setting.
    #[must_use]
    pub fn message(self) -> &'static str {
        match self {
            Self::Challenge => "The passkey answers another challenge. Ask for options again",
            Self::Origin => "The passkey was made for another origin than those of this server",
            Self::RelyingParty => "The passkey was made for another relying party than this server",
            Self::Unattended => "The authenticator did not ask for a person",
            Self::UnknownCredential | Self::Signature | Self::Cloned | Self::Unusable => {
                "The passkey can't be used"
            }
        }
    }
}

impl RelyingParty {
    /// Returns options for a new credential: without attestation, which would distinguish users' devices and
    /// be of no use here; with user verification where the device supports it (the passkey is the second
    /// factor, beside the password).
    ///
    /// # Errors
    /// [`Error::Conflict`] if passkeys are off.
    pub fn start_registration(&self, user: &User, existing: &[Vec<u8>]) -> Result<Ceremony> {
        let known = existing
            .iter()
            .map(|kept| Ok(read_key(kept)?.cred_id().clone()))
            .collect::<Result<Vec<_>>>()?;
        let name = user.name.as_deref().unwrap_or(&user.email);
        let (mut challenge, state) = self
            .webauthn()?
            .start_securitykey_registration(user.id.0, &user.email, name, Some(known), None, None)
            .map_err(internal)?;
        // Otherwise browsers offer only roaming security keys, and Chromium refuses altogether: it takes
        // credProtect's "verification required" for a contradiction to "preferred".
        challenge.public_key.hints = None;
        challenge.public_key.extensions = None;
        ceremony(&challenge.public_key, &state)
    }

    /// Verifies the answer to a registration.
    ///
    /// # Errors
    /// [`Error::Validation`] if a text is not base64url; [`Error::Conflict`] if passkeys are off;
    /// [`Error::Internal`].
    pub fn finish_registration(
        &self,
        created: &Created,
        state: &[u8],
    ) -> Result<std::result::Result<Credential, Fault>> {
        let webauthn = self.webauthn()?;
        for (field, text) in [
            ("credential.id", &created.credential_id),
            ("credential.response.clientDataJSON", &created.client_data),
            ("credential.response.attestationObject", &created.attestation),
        ] {
            read_base64(field, text)?;
        }
        let state: SecurityKeyRegistration = serde_json::from_slice(state).map_err(internal)?;
        let answer = json!({
            "id": created.credential_id,
            "rawId": created.credential_id,
            "type": "public-key",
            "response": {
                "attestationObject": created.attestation,
                "clientDataJSON": created.client_data,
                "transports": created.transports,
            },
        });
        let Ok(answer) = serde_json::from_value::<RegisterPublicKeyCredential>(answer) else {
            return Ok(Err(Fault::Unusable));
        };
        let key = match webauthn.finish_securitykey_registration(&answer, &state) {
            Ok(key) => key,
            Err(error) => return Ok(Err(fault(&error))),
        };
        let id = key.cred_id().clone();
        // The signed id counts; a client that reports another one is broken or lying. §5.1: at most 1023
        // bytes.
        if id.is_empty() || id.len() > 1023 || id != answer.raw_id {
            return Ok(Err(Fault::Unusable));
        }
        let kept = serde_json::to_vec(&key).map_err(internal)?;
        let counter = counter(&kept)?;
        Ok(Ok(Credential { id, counter, kept }))
    }

    /// Returns options for the use of one of these credentials.
    ///
    /// # Errors
    /// [`Error::Conflict`] if passkeys are off; [`Error::Internal`].
    pub fn start_authentication(&self, kept: &[Vec<u8>]) -> Result<Ceremony> {
        let keys = kept
            .iter()
            .map(|kept| read_key(kept))
            .collect::<Result<Vec<_>>>()?;
        let (mut challenge, state) = self
            .webauthn()?
            .start_securitykey_authentication(&keys)
            .map_err(internal)?;
        challenge.public_key.hints = None;
        ceremony(&challenge.public_key, &state)
    }

    /// Verifies the use of one of the credentials that were asked for; `kept` are those that the user has
    /// now.
    ///
    /// # Errors
    /// [`Error::Validation`] if a text is not base64url; [`Error::Conflict`] if passkeys are off;
    /// [`Error::Internal`].
    pub fn finish_authentication(
        &self,
        asserted: &Asserted,
        state: &[u8],
        kept: &[Vec<u8>],
    ) -> Result<std::result::Result<Credential, Fault>> {
        let webauthn = self.webauthn()?;
        asserted.check()?;
        let state: SecurityKeyAuthentication = serde_json::from_slice(state).map_err(internal)?;
        let answer = json!({
            "id": asserted.credential_id,
            "rawId": asserted.credential_id,
            "type": "public-key",
            "response": {
                "authenticatorData": asserted.authenticator_data,
                "clientDataJSON": asserted.client_data,
                "signature": asserted.signature,
                "userHandle": asserted.user_handle,
            },
        });
        let Ok(answer) = serde_json::from_value::<PublicKeyCredential>(answer) else {
            return Ok(Err(Fault::Unusable));
        };
        let used = match webauthn.finish_securitykey_authentication(&answer, &state) {
            Ok(used) => used,
            Err(error) => return Ok(Err(fault(&error))),
        };
        for kept in kept {
            let mut key = read_key(kept)?;
            if key.update_credential(&used).is_some() {
                return Ok(Ok(Credential {
                    id: used.cred_id().clone(),
                    counter: used.counter(),
                    kept: serde_json::to_vec(&key).map_err(internal)?,
                }));
            }
        }
        Ok(Err(Fault::UnknownCredential)) // removed since it was asked for
    }

    fn webauthn(&self) -> Result<&Webauthn> {
        let off =
            "Passkeys need a domain name: this server is reached by an address (passkeys.relying_party_id)";
        self.webauthn
            .as_ref()
            .ok_or_else(|| Error::Conflict(off.to_owned()))
    }
}

impl Asserted {
    /// Returns the id of the credential in bytes; empty if it is malformed.
    #[must_use]
    pub fn credential(&self) -> Vec<u8> {
        data_encoding::BASE64URL_NOPAD
            .decode(self.credential_id.as_bytes())
            .unwrap_or_default()
    }

    /// Checks that every text is base64url.
    ///
    /// # Errors
    /// [`Error::Validation`] naming the field.
    pub fn check(&self) -> Result<()> {
        let no_handle = String::new();
        for (field, text) in [
            ("credential.id", &self.credential_id),
            ("credential.response.clientDataJSON", &self.client_data),
            ("credential.response.authenticatorData", &self.authenticator_data),
            ("credential.response.signature", &self.signature),
            (
                "credential.response.userHandle",
                self.user_handle.as_ref().unwrap_or(&no_handle),
            ),
        ] {
            read_base64(field, text)?;
        }
        Ok(())
    }
}

fn ceremony(options: &impl serde::Serialize, state: &impl serde::Serialize) -> Result<Ceremony> {
    Ok(Ceremony {
        options: serde_json::to_value(options).map_err(internal)?,
        state: serde_json::to_vec(state).map_err(internal)?,
    })
}

fn read_key(kept: &[u8]) -> Result<SecurityKey> {
    serde_json::from_slice(kept).map_err(internal)
}

/// Reads the counter of a stored credential: its type does not expose it.
fn counter(kept: &[u8]) -> Result<u32> {
    let key: Value = serde_json::from_slice(kept).map_err(internal)?;
    let counter = key["cred"]["counter"].as_u64();
    let counter = counter.and_then(|counter| counter.try_into().ok());
    counter.ok_or_else(|| Error::Internal("a passkey has no counter".to_owned()))
}

fn read_base64(field: &str, text: &str) -> Result<()> {
    let read = data_encoding::BASE64URL_NOPAD.decode(text.as_bytes());
    read.map(drop)
        .map_err(|_| Error::field(field, "must be base 64 for URLs (RFC 4648 §5) without padding"))
}

fn fault(error: &WebauthnError) -> Fault {
    match error {
        WebauthnError::MismatchedChallenge => Fault::Challenge,
        WebauthnError::InvalidRPOrigin | WebauthnError::CredentialCrossOrigin => Fault::Origin,
        WebauthnError::InvalidRPIDHash => Fault::RelyingParty,
        WebauthnError::CredentialNotFound => Fault::UnknownCredential,
        WebauthnError::AuthenticationFailure => Fault::Signature,
        WebauthnError::UserNotPresent | WebauthnError::UserNotVerified => Fault::Unattended,
        WebauthnError::CredentialPossibleCompromise => Fault::Cloned,
        _ => Fault::Unusable,
    }
}

fn internal(error: impl std::fmt::Display) -> Error {
    Error::Internal(format!("a passkey ceremony: {error}"))
}

prints_no_secret!(Created, Asserted, Ceremony, Credential);
