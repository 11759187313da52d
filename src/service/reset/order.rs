//! A reset as it was asked for, and as it was understood.

use sha2::{Digest as _, Sha256};
use uuid::Uuid;

use super::ResetAnswer;
use crate::domain::account::{Organization, Principal, User, UserId};
use crate::domain::approval::Approval;
use crate::domain::{Error, Result};
use crate::service::mandate::Mandate;
use crate::service::{RequestContext, Services};
use crate::store::requests;

/// Longest `Idempotency-Key`, in characters.
const KEY_LIMIT: usize = 255;
/// Longest reason or ticket, in characters (contract B6).
const TEXT_LIMIT: usize = 500;

/// A reset as HTTP hands it over: nothing in it has been judged.
#[derive(Clone, Debug)]
pub struct ResetRequest {
    /// How it came in.
    pub context: RequestContext,
    /// The user's id as written.
    pub target: String,
    /// The optional body, or what is wrong with it.
    pub body: Result<ResetBody>,
    /// The `Idempotency-Key` header as sent.
    pub idempotency_key: Option<String>,
}

/// The optional body (contract B6).
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ResetBody {
    /// Why, at most 500 characters.
    pub reason: Option<String>,
    /// Ticket reference, at most 500 characters.
    pub ticket: Option<String>,
}

/// A well-formed reset.
#[derive(Clone, Debug)]
pub struct Order {
    /// How it came in.
    pub context: RequestContext,
    /// On whom.
    pub target: UserId,
    /// The id as written, for the 404's text.
    pub written_target: String,
    /// Why and by which ticket.
    pub body: ResetBody,
    /// What makes a repeat a repeat.
    pub idempotency: Option<Idempotency>,
    /// Who wants it, and with what right.
    pub mandate: Mandate,
    /// The caller and their organisation as authentication just read them, where they are what the first
    /// judgement would read again. The commit checks their revisions.
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

impl Order {
    /// Reads a request.
    ///
    /// # Errors
    /// [`Error::Malformed`] or [`Error::Validation`].
    pub fn from_request(principal: &Principal, request: &ResetRequest) -> Result<Self> {
        let UserId(target) = read_user_id(&request.target)?;
        let body = request.body.clone()?;
        let idempotency = match &request.idempotency_key {
            Some(key) => Some(Idempotency::new(key, target, &body)?),
            None => None,
        };
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

    /// What the operator orders.
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

    /// The order that an approval was waiting to carry out.
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

    /// The answer that the same request got before.
    ///
    /// # Errors
    /// [`Error::IdempotencyKeyReused`] when the key came with another request.
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

/// A user's id as a caller wrote it. Only the canonical form: the same user must not have several names in
/// logs and limits.
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
    fn new(key: &str, target: Uuid, body: &ResetBody) -> Result<Self> {
        let visible = key.bytes().all(|b| (0x20..0x7f).contains(&b));
        if key.is_empty() || key.len() > KEY_LIMIT || !visible {
            return Err(Error::Malformed(format!(
                "The Idempotency-Key must have 1 to {KEY_LIMIT} visible ASCII characters"
            )));
        }
        let mut fingerprint = Sha256::new_with_prefix(b"reset-mfa\0");
        fingerprint.update(target.as_bytes());
        for field in [&body.reason, &body.ticket] {
            // A length before each part: ("ab", "c") must not look like ("a", "bc").
            fingerprint.update(field.as_ref().map_or(u64::MAX, |f| f.len() as u64).to_be_bytes());
            fingerprint.update(field.as_deref().unwrap_or_default());
        }
        Ok(Self {
            key_hash: Sha256::digest(key).into(),
            fingerprint: fingerprint.finalize().into(),
        })
    }
}
