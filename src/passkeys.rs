//! Passkeys as a second factor (W3C Web Authentication Level 3, §7): what an authenticator is asked, and
//! whether its answer holds. The one place that names `webauthn-rs`; it knows no store, no clock and no user
//! but by id and name.
//!
//! What a ceremony remembers, and a credential as it is kept, are bytes to everybody else.

mod relying_party;

pub use relying_party::Written;

use serde_json::{Value, json};
use webauthn_rs::prelude::{
    PublicKeyCredential, RegisterPublicKeyCredential, SecurityKey, SecurityKeyAuthentication,
    SecurityKeyRegistration, Webauthn, WebauthnError,
};

use crate::domain::account::User;
use crate::domain::{Error, Result};

/// Who asks: what a passkey is bound to, and from which origins it may be used.
#[derive(Clone, Debug, Default)]
pub struct RelyingParty {
    webauthn: Option<Webauthn>,
    id: Option<String>,
}

/// What an authenticator answered to a registration: base 64 for URLs, unpadded, as browsers give it.
#[derive(Clone)]
pub struct Created {
    /// The credential's id.
    pub credential_id: String,
    /// `clientDataJSON`.
    pub client_data: String,
    /// `attestationObject`.
    pub attestation: String,
    /// How the authenticator can be reached.
    pub transports: Vec<String>,
}

/// What an authenticator answered at a login or step-up, likewise.
#[derive(Clone)]
pub struct Asserted {
    /// The credential's id.
    pub credential_id: String,
    /// `clientDataJSON`.
    pub client_data: String,
    /// `authenticatorData`.
    pub authenticator_data: String,
    /// Over both.
    pub signature: String,
    /// Whom the authenticator takes the user for.
    pub user_handle: Option<String>,
}

/// Options for the browser, and what has to be remembered until it answers.
pub struct Ceremony {
    /// For `navigator.credentials`, in the JSON form of Web Authentication Level 3 §5.1.8–9.
    pub options: Value,
    /// For the end of the ceremony; server side alone.
    pub state: Vec<u8>,
}

/// A credential that was checked.
#[derive(Clone)]
pub struct Credential {
    /// Its id, at most 1023 bytes.
    pub id: Vec<u8>,
    /// How often it was used, as the authenticator counts; 0 where it doesn't.
    pub counter: u32,
    /// As it is to be kept.
    pub kept: Vec<u8>,
}

/// Why an answer is none.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fault {
    /// It answers another challenge.
    Challenge,
    /// It was made for another origin.
    Origin,
    /// It was made for another relying party.
    RelyingParty,
    /// No credential that was asked for.
    UnknownCredential,
    /// Signed by something else.
    Signature,
    /// Nobody touched it, or it was not unlocked although it was before.
    Unattended,
    /// Its counter went back: there is a copy (§7.2 step 22).
    Cloned,
    /// It can't be read, or is of a kind that is not taken.
    Unusable,
}

impl Fault {
    /// The word for the trail.
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

    /// What somebody is told who registers: they are who they say, and it may be a setting.
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
    /// Asks an authenticator for a new credential: without attestation, which would tell one user's devices
    /// from another's and be of no use to us; the user is verified where the device can (it is the second
    /// factor, beside the password).
    ///
    /// # Errors
    /// [`Error::Conflict`] where passkeys can't be used here.
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
        // Else browsers offer nothing but keys on a string, and Chromium refuses altogether: it takes
        // credProtect's "verification required" for a contradiction to "preferred".
        challenge.public_key.hints = None;
        challenge.public_key.extensions = None;
        ceremony(&challenge.public_key, &state)
    }

    /// Checks what the authenticator made.
    ///
    /// # Errors
    /// [`Error::Validation`] for text that is no base 64; [`Error::Conflict`]; [`Error::Internal`].
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
        // What was signed counts, and a client that says something else is confused or lies. §5.1: at most
        // 1023 bytes.
        if id.is_empty() || id.len() > 1023 || id != answer.raw_id {
            return Ok(Err(Fault::Unusable));
        }
        let kept = serde_json::to_vec(&key).map_err(internal)?;
        let counter = counter(&kept)?;
        Ok(Ok(Credential { id, counter, kept }))
    }

    /// Asks for the use of one of these credentials.
    ///
    /// # Errors
    /// [`Error::Conflict`] where passkeys can't be used here; [`Error::Internal`].
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

    /// Checks the use of one of the credentials that were asked for; `kept` are those that the user has now.
    ///
    /// # Errors
    /// [`Error::Validation`] for text that is no base 64; [`Error::Conflict`]; [`Error::Internal`].
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
    /// The credential's id in bytes, where it can be read.
    #[must_use]
    pub fn credential(&self) -> Vec<u8> {
        data_encoding::BASE64URL_NOPAD
            .decode(self.credential_id.as_bytes())
            .unwrap_or_default()
    }

    /// Whether every text is base 64.
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

/// The counter in a credential as kept: the type itself doesn't tell.
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
