//! Parameters of the request that the service judges, because operations such as `resetMfa` judge the caller
//! before anything else: extracting them never fails.

use poem::{Request, RequestBody};
use poem_openapi::param::Query;
use poem_openapi::registry::{MetaParamIn, MetaSchemaRef};
use poem_openapi::types::Type as _;
use poem_openapi::{ApiExtractor, ApiExtractorType, ExtractParamOptions};

use crate::domain::{Error, Result};

/// Every value of an optional header, as sent. poem-openapi's own extractor ignores values that are not ASCII, and
/// all but the first of several. A validator of it is documented, and left to the service.
#[derive(Clone, Debug)]
pub struct WrittenHeader(pub Vec<Vec<u8>>);

impl WrittenHeader {
    /// Returns the value, which may have `most` bytes.
    ///
    /// # Errors
    /// [`Error::Malformed`] if the value is longer or not ASCII, or if there are several.
    pub fn text(&self, name: &str, most: usize) -> Result<Option<&str>> {
        let text = match self.0.as_slice() {
            [] => return Ok(None),
            [one] if one.is_ascii() && one.len() <= most => std::str::from_utf8(one).ok(),
            _ => None,
        };
        let malformed = || Error::Malformed(format!("Send one {name} of at most {most} ASCII characters"));
        text.map(Some).ok_or_else(malformed)
    }
}

impl<'a> ApiExtractor<'a> for WrittenHeader {
    const TYPES: &'static [ApiExtractorType] = &[ApiExtractorType::Parameter];
    type ParamType = Option<String>;
    type ParamRawType = String;

    fn param_in() -> Option<MetaParamIn> {
        Some(MetaParamIn::Header)
    }

    fn param_schema_ref() -> Option<MetaSchemaRef> {
        Some(String::schema_ref())
    }

    async fn from_request(
        request: &'a Request,
        _body: &mut RequestBody,
        options: ExtractParamOptions<Self::ParamType>,
    ) -> poem::Result<Self> {
        let values = request.headers().get_all(options.name).iter();
        Ok(Self(values.map(|value| value.as_bytes().to_vec()).collect()))
    }
}

/// A flag in the query, or what is wrong with it.
#[derive(Clone, Debug)]
pub struct DeferredFlag(pub Result<bool>);

impl<'a> ApiExtractor<'a> for DeferredFlag {
    const TYPES: &'static [ApiExtractorType] = &[ApiExtractorType::Parameter];
    const PARAM_IS_REQUIRED: bool = true;
    type ParamType = bool;
    type ParamRawType = bool;

    fn param_in() -> Option<MetaParamIn> {
        Some(MetaParamIn::Query)
    }

    fn param_schema_ref() -> Option<MetaSchemaRef> {
        Some(bool::schema_ref())
    }

    async fn from_request(
        request: &'a Request,
        body: &mut RequestBody,
        options: ExtractParamOptions<Self::ParamType>,
    ) -> poem::Result<Self> {
        let name = options.name;
        let read = <Query<bool> as ApiExtractor>::from_request(request, body, options).await;
        let malformed = |_| Error::Malformed(format!("The parameter '{name}' is malformed"));
        Ok(Self(read.map(|flag| flag.0).map_err(malformed)))
    }
}
