//! A plugin file as a request body: larger than other bodies, and read only once its sender is known
//! to be an admin.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use poem::http::Method;
use poem::{Body, Request, RequestBody};
use poem_openapi::registry::{MetaMediaType, MetaRequest, MetaSchema, MetaSchemaRef, Registry};
use poem_openapi::{ApiExtractor, ApiExtractorType, ExtractParamOptions};

use crate::domain::{Error, Result};
use crate::http::error::Problem;
use crate::service::plugins::FILE_BYTES_MAX;

const TYPES: [&str; 2] = ["application/wasm", "application/octet-stream"];

/// Whether a request brings a plugin file: its body has a limit of its own, kept by `Upload::read`.
#[must_use]
pub fn is_upload(method: &Method, path: &str) -> bool {
    *method == Method::POST && path == "/api/v1/plugins"
}

/// A file that has not been read yet.
pub struct Upload {
    body: Body,
    announced_bytes: Option<usize>,
}

impl Upload {
    /// Reads the file.
    ///
    /// # Errors
    /// [`Error::TooLarge`], before more than the limit was read.
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

/// The `.minisig` file in the header.
pub(super) fn signature_text(header: &str) -> Result<String> {
    let bytes = STANDARD.decode(header.trim()).ok();
    bytes
        .and_then(|bytes| String::from_utf8(bytes).ok())
        .ok_or_else(|| Error::Malformed("X-Plugin-Signature must be the .minisig file in base64".into()))
}
