//! Who is calling: bearer token → [`Principal`], or 401.

use poem::Request;
use poem_openapi::SecurityScheme;
use poem_openapi::auth::Bearer;

use super::error::Problem;
use super::schema::{context, services};
use crate::domain::account::Principal;
use crate::service::session;

/// A caller whose access token is good and whose session lives.
///
/// What the caller may do is judged by the service: role and session scope are the database's to say.
#[derive(SecurityScheme)]
#[oai(rename = "bearerAuth", ty = "bearer", bearer_format = "JWT", checker = "authenticate")]
pub struct Caller(pub Principal);

async fn authenticate(request: &Request, bearer: Bearer) -> poem::Result<Principal> {
    let at = context(request)?.at;
    session::authenticate(services(request)?, Some(&bearer.token), at).map_err(|e| Problem(e).into())
}
