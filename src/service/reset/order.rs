//! A reset as requested, and as parsed.

use sha2::{Digest as _, Sha256};
use uuid::Uuid;

use super::ResetAnswer;
use crate::domain::account::{Organization, Principal, User, UserId};
use crate::domain::approval::Approval;
use crate::domain::{Error, Result};
use crate::service::mandate::Mandate;
use crate::service::{RequestContext, Services};
use crate::store::requests;

/// Maximum length of an `Idempotency-Key`, in characters.
const KEY_LIMIT: usize = 255;
/// Maximum length of a reason or ticket, in characters.
const TEXT_LIMIT: usize = 500;

/// A reset request as received over HTTP, not yet validated.
#[derive(Clone, Debug)]
pub struct ResetRequest {
    /// Metadata of the request.
    pub context: RequestContext,
    /// The user's id as written.
    pub target: String,
    /// The optional body, or what is wrong with it.
    pub body: Result<ResetBody>,
    /// The values of the `Idempotency-Key` header as sent.
    pub idempotency_keys: Vec<Vec<u8>>,
    /// Whether a receipt is requested, or what is wrong with the parameter or header that says so.
    pub receipt: Result<bool>,
}

/// The optional body of a reset call.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ResetBody {
    /// Reason, at most 500 characters.
    pub reason: Option<String>,
    /// Ticket reference, at most 500 characters.
    pub ticket: Option<String>,
}

/// A well-formed reset.
#[derive(Clone, Debug)]
pub struct ResetOrder {
    /// Metadata of the request.
    pub context: RequestContext,
    /// The user to reset.
    pub target: UserId,
    /// The id as written, for the text of a 404.
    pub written_target: String,
    /// Reason and ticket.
    pub body: ResetBody,
    /// Identifies a repeated request.
    pub idempotency: Option<Idempotency>,
    /// The authority under which it is carried out.
    pub mandate: Mandate,
    /// The caller and their organisation as authentication just read them, if the first evaluation would read
    /// the same. The commit checks their revisions.
    pub(super) read: Option<Box<(User, Organization)>>,
}

/// A key and the fingerprint of the request it came with, both as SHA-256.
#[derive(Clone, Copy, Debug)]
pub struct Idempotency {
    /// Hash of the key.
    pub key_hash: [u8; 32],
    /// Hash of the request.
    pub fingerprint: [u8; 32],
}

impl ResetOrder {
    /// Parses a request.
    ///
    /// # Errors
    /// [`Error::Malformed`], [`Error::Validation`] or [`Error::WrongContentType`].
    pub fn from_request(principal: &Principal, request: &ResetRequest) -> Result<Self> {
        let UserId(target) = read_user_id(&request.target)?;
        let body = request.body.clone()?;
        let idempotency = match &request.idempotency_keys[..] {
            [] => None,
            [key] => Some(Idempotency::new(key, target, &body)?),
            // Which of them the caller will repeat is unknown, and ignoring them would repeat the reset.
            _ => return Err(Error::Malformed("Send one Idempotency-Key".into())),
        };
        request.receipt.clone()?;
        Ok(Self {
            context: request.context.clone(),
            target: UserId(target),
            written_target: request.target.clone(),
            body,
            idempotency,
            mandate: Mandate::of(principal),
            read: Some(Box::new((principal.user.clone(), principal.organization.clone()))),
        })
    }

    /// Creates an order of the operator.
    ///
    /// # Errors
    /// [`Error::Validation`].
    pub(super) fn of_operator(user: &User, body: ResetBody, context: &RequestContext) -> Result<Self> {
        for (field, text) in [("reason", &body.reason), ("ticket", &body.ticket)] {
            if text
                .as_ref()
                .is_some_and(|text| text.chars().count() > TEXT_LIMIT)
            {
                let problem = format!("must have at most {TEXT_LIMIT} characters");
                return Err(Error::field(field, problem));
            }
        }
        Ok(Self {
            context: context.clone(),
            target: user.id,
            written_target: user.id.to_string(),
            body,
            idempotency: None,
            mandate: Mandate::operator(user.organization_id, context.at),
            read: None,
        })
    }

    /// Returns the order that an approval was waiting to carry out.
    #[must_use]
    pub fn agreed(approval: Approval, approver: &Principal, context: &RequestContext) -> Self {
        Self {
            context: context.clone(),
            target: approval.target_id,
            written_target: approval.target_id.to_string(),
            body: ResetBody {
                reason: approval.reason.clone(),
                ticket: approval.ticket.clone(),
            },
            idempotency: None,
            mandate: Mandate::agreed(approval, approver),
            read: None,
        }
    }

    /// Returns the answer that the same request got before, if any.
    ///
    /// # Errors
    /// [`Error::IdempotencyKeyReused`] if the key came with another request.
    pub(super) fn remembered(&self, services: &Services) -> Result<Option<ResetAnswer>> {
        let Some(Idempotency {
            key_hash,
            fingerprint,
        }) = &self.idempotency
        else {
            return Ok(None);
        };
        let outcome = services.store.read(|db| {
            requests::find_remembered(db, self.mandate.actor, key_hash, fingerprint, self.context.at)
        })?;
        outcome
            .map(|text| {
                serde_json::from_str(&text).map_err(|e| Error::Internal(format!("remembered outcome: {e}")))
            })
            .transpose()
    }
}

/// Parses a user's id as written by a caller. Only the canonical form is accepted: a user must not have several
/// names in logs and limits.
///
/// # Errors
/// [`Error::Malformed`].
pub fn read_user_id(written: &str) -> Result<UserId> {
    Uuid::try_parse(written)
        .ok()
        .filter(|id| written.len() == 36 && !id.is_nil())
        .map(UserId)
        .ok_or_else(|| Error::Malformed("The user id must be a UUID".into()))
}

impl Idempotency {
    fn new(key: &[u8], target: Uuid, body: &ResetBody) -> Result<Self> {
        let visible = key.iter().all(u8::is_ascii_graphic);
        if key.is_empty() || key.len() > KEY_LIMIT || !visible {
            return Err(Error::Malformed(format!(
                "The Idempotency-Key must have 1 to {KEY_LIMIT} visible ASCII characters"
            )));
        }
        let mut fingerprint = Sha256::new_with_prefix(b"reset-mfa\0");
        fingerprint.update(target.as_bytes());
        for field in [&body.reason, &body.ticket] {
            // Prefix each part with its length: ("ab", "c") must differ from ("a", "bc").
            fingerprint.update(field.as_ref().map_or(u64::MAX, |f| f.len() as u64).to_be_bytes());
            fingerprint.update(field.as_deref().unwrap_or_default());
        }
        Ok(Self {
            key_hash: Sha256::digest(key).into(),
            fingerprint: fingerprint.finalize().into(),
        })
    }
}
