//! A plugin file as a request body: larger than other bodies, and read only once the caller is known to be an
//! administrator.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use poem::http::Method;
use poem::{Body, Request, RequestBody};
use poem_openapi::registry::{MetaMediaType, MetaRequest, MetaSchema, MetaSchemaRef, Registry};
use poem_openapi::{ApiExtractor, ApiExtractorType, ExtractParamOptions};

use crate::domain::account::OrganizationId;
use crate::domain::{Error, Result};
use crate::http::error::Problem;
use crate::service::plugins::FILE_BYTES_MAX;

/// Maximum number of concurrent uploads, which bounds the memory that they hold.
const UPLOADS: usize = 4;
/// Maximum number of concurrent uploads per organisation, so that a slow sender leaves slots for others.
const UPLOADS_OF_ONE: usize = 2;

const TYPES: [&str; 2] = ["application/wasm", "application/octet-stream"];

/// Returns whether a request uploads a plugin file, whose body has its own limit, enforced by `Upload::read`.
#[must_use]
pub fn is_upload(method: &Method, path: &str) -> bool {
    *method == Method::POST && path == "/api/v1/plugins"
}

/// An upload whose body has not been read yet.
pub struct Upload {
    body: Body,
    announced_bytes: Option<usize>,
}

impl Upload {
    /// Reads the file.
    ///
    /// # Errors
    /// [`Error::TooLarge`], without reading more than the limit.
    pub async fn read(self) -> Result<Vec<u8>> {
        let too_large = Error::TooLarge {
            limit_bytes: FILE_BYTES_MAX,
        };
        if self.announced_bytes.is_some_and(|bytes| bytes > FILE_BYTES_MAX) {
            return Err(too_large);
        }
        match self.body.into_bytes_limit(FILE_BYTES_MAX).await {
            Ok(bytes) => Ok(bytes.into()),
            Err(poem::error::ReadBodyError::PayloadTooLarge) => Err(too_large),
            Err(_) => Err(Error::Malformed("The body could not be read".into())),
        }
    }
}

impl<'a> ApiExtractor<'a> for Upload {
    const TYPES: &'static [ApiExtractorType] = &[ApiExtractorType::RequestObject];
    type ParamType = ();
    type ParamRawType = ();

    fn register(_registry: &mut Registry) {}

    fn request_meta() -> Option<MetaRequest> {
        let schema = || MetaSchemaRef::Inline(Box::new(MetaSchema::new_with_format("string", "binary")));
        Some(MetaRequest {
            description: Some("The plugin file"),
            content: TYPES
                .map(|content_type| MetaMediaType {
                    content_type,
                    schema: schema(),
                })
                .into(),
            required: true,
        })
    }

    async fn from_request(
        request: &'a Request,
        body: &mut RequestBody,
        _options: ExtractParamOptions<()>,
    ) -> poem::Result<Self> {
        let essence = request
            .content_type()
            .and_then(|text| text.split(';').next())
            .unwrap_or_default()
            .trim();
        if !TYPES.iter().any(|known| essence.eq_ignore_ascii_case(known)) {
            let wanted = "application/wasm or application/octet-stream";
            return Err(Problem(Error::WrongContentType(wanted)).into());
        }
        let length = request.header(poem::http::header::CONTENT_LENGTH);
        Ok(Self {
            announced_bytes: length.and_then(|text| text.parse().ok()),
            body: body.take()?,
        })
    }
}

/// Upload slots: the number that each organisation holds.
#[derive(Clone, Default)]
pub(super) struct UploadTurns(Arc<Mutex<HashMap<OrganizationId, usize>>>);

/// An upload slot, released when dropped.
pub(super) struct UploadTurn {
    turns: UploadTurns,
    whose: OrganizationId,
}

impl UploadTurns {
    /// Takes a slot for the organisation.
    ///
    /// # Errors
    /// [`Error::Busy`] if all slots are taken, or the organisation holds its share of them.
    pub(super) fn take(&self, whose: OrganizationId) -> Result<UploadTurn> {
        let mut taken = self.taken();
        let all: usize = taken.values().sum();
        let own = taken.get(&whose).copied().unwrap_or_default();
        if all >= UPLOADS || own >= UPLOADS_OF_ONE {
            return Err(Error::Busy { retry_after_secs: 5 });
        }
        taken.insert(whose, own + 1);
        Ok(UploadTurn {
            turns: self.clone(),
            whose,
        })
    }

    fn taken(&self) -> MutexGuard<'_, HashMap<OrganizationId, usize>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for UploadTurn {
    fn drop(&mut self) {
        let mut taken = self.turns.taken();
        match taken.get_mut(&self.whose) {
            Some(own) if *own > 1 => *own -= 1,
            _ => drop(taken.remove(&self.whose)),
        }
    }
}

/// Decodes the `.minisig` file in the header `X-Plugin-Signature`.
pub(super) fn signature_text(header: &str) -> Result<String> {
    let bytes = STANDARD.decode(header.trim()).ok();
    bytes
        .and_then(|bytes| String::from_utf8(bytes).ok())
        .ok_or_else(|| Error::Malformed("X-Plugin-Signature must be the .minisig file in base64".into()))
}

#[cfg(test)]
mod tests {
    use uuid::Uuid;

    use super::*;

    #[test]
    fn an_organisation_has_its_share_of_the_turns_and_all_together_have_no_more_than_there_are() {
        let turns = UploadTurns::default();
        let take = |n| turns.take(OrganizationId(Uuid::from_u128(n)));
        let first = take(1).expect("a turn");
        let _second = take(1).expect("another");
        assert!(matches!(take(1), Err(Error::Busy { .. })));
        let _others = [2, 3].map(|n| take(n).expect("others have theirs"));
        assert!(matches!(take(4), Err(Error::Busy { .. })));
        drop(first);
        let _fourth = take(4).expect("it came back");
        assert!(take(1).is_err());
    }
}
