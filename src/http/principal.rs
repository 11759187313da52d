//! Authentication: from the `Authorization` header to a [`Principal`], or from `X-API-Key` to a [`Reader`]. The
//! first argument of every secured handler, so that 401 takes precedence over everything else.

use poem::{Request, RequestBody};
use poem_openapi::auth::Bearer;
use poem_openapi::registry::{MetaSecurityScheme, Registry};
use poem_openapi::{ApiExtractor, ApiExtractorType, ExtractParamOptions, SecurityScheme};

use super::error::Problem;
use super::schema::{context, services};
use crate::domain::Error;
use crate::domain::account::Principal;
use crate::domain::credential::API_KEY_PREFIX;
use crate::domain::error::TokenFault;
use crate::service::api_keys::{self, Credential};
use crate::service::session;

/// A caller with a valid token, in any session. Setting up MFA and logout accept an enrolment-only session; the
/// reset refuses it itself, so that the refusal is recorded.
#[derive(SecurityScheme)]
#[oai(
    rename = "bearerAuth",
    ty = "bearer",
    bearer_format = "JWT",
    checker = "any_session"
)]
pub struct AnySession(pub Principal);

/// A caller with a valid token, in a full session. An enrolment session is refused here, without an entry.
#[derive(SecurityScheme)]
#[oai(
    rename = "bearerAuth",
    ty = "bearer",
    bearer_format = "JWT",
    checker = "full_session"
)]
pub struct Caller(pub Principal);

#[expect(clippy::unused_async, reason = "the derive calls and awaits it")]
async fn any_session(request: &Request, bearer: Bearer) -> poem::Result<Principal> {
    authenticate(request, &bearer.token)
}

#[expect(clippy::unused_async, reason = "the derive calls and awaits it")]
async fn full_session(request: &Request, bearer: Bearer) -> poem::Result<Principal> {
    let principal = authenticate(request, &bearer.token)?;
    principal.full().map_err(Problem)?;
    Ok(principal)
}

fn authenticate(request: &Request, token: &str) -> poem::Result<Principal> {
    let at = context(request)?.at;
    if token.starts_with(API_KEY_PREFIX) {
        // Refused before any lookup, so that the answer reveals nothing about the key.
        return Err(Problem(Error::Token(TokenFault::IsApiKey)).into());
    }
    Ok(session::authenticate(services(request)?, Some(token), at).map_err(Problem)?)
}

/// A reader: a caller with a valid token in a full session, or the holder of a valid API key (`X-API-Key`). If
/// both are sent, the token is used.
pub struct Reader {
    /// The authenticated reader.
    pub who: api_keys::Reader,
    /// The credential that was presented, with which long reads authenticate again.
    pub credential: Credential,
}

const API_KEY_HEADER: &str = "X-API-Key";
const API_KEY_SCHEME: &str = "apiKeyAuth";

impl<'a> ApiExtractor<'a> for Reader {
    const TYPES: &'static [ApiExtractorType] = &[ApiExtractorType::SecurityScheme];

    type ParamType = ();
    type ParamRawType = ();

    fn register(registry: &mut Registry) {
        Caller::register(registry);
        registry.create_security_scheme(
            API_KEY_SCHEME,
            MetaSecurityScheme {
                ty: "apiKey",
                description: Some("An API key for programs that only read, created by an administrator."),
                name: Some(API_KEY_HEADER),
                key_in: Some("header"),
                scheme: None,
                bearer_format: None,
                flows: None,
                openid_connect_url: None,
            },
        );
    }

    fn security_schemes() -> Vec<&'static str> {
        let mut schemes = Caller::security_schemes();
        schemes.push(API_KEY_SCHEME);
        schemes
    }

    async fn from_request(
        request: &'a Request,
        body: &mut RequestBody,
        options: ExtractParamOptions<()>,
    ) -> poem::Result<Self> {
        let key = request.header(API_KEY_HEADER);
        match (request.header("Authorization"), key) {
            (None, Some(key)) => {
                let at = context(request)?.at;
                let who = api_keys::authenticate_key(services(request)?, key, at).await;
                Ok(Self {
                    who: who.map_err(Problem)?,
                    credential: Credential::Key(key.to_owned()),
                })
            }
            (written, _) => {
                let token = written.and_then(|value| value.split_once(' '));
                let token = token.map_or("", |(_, token)| token.trim()).to_owned();
                let Caller(principal) =
                    <Caller as ApiExtractor>::from_request(request, body, options).await?;
                Ok(Self {
                    who: api_keys::Reader::Person(Box::new(principal)),
                    credential: Credential::Bearer(token),
                })
            }
        }
    }
}
