//! From the `Authorization` header to a [`Principal`]. The first argument of every secured handler, so
//! that 401 comes before everything else.

use poem::Request;
use poem_openapi::SecurityScheme;
use poem_openapi::auth::Bearer;

use super::error::Problem;
use super::schema::{context, services};
use crate::domain::account::Principal;
use crate::service::session;

/// A caller with a good token, in whatever session. Set-up of MFA and logout take an enrolment-only one;
/// the reset refuses it itself, so that the refusal is on the record.
#[derive(SecurityScheme)]
#[oai(
    rename = "bearerAuth",
    ty = "bearer",
    bearer_format = "JWT",
    checker = "any_session"
)]
pub struct AnySession(pub Principal);

/// A caller with a good token, in a full session.
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
    Ok(session::authenticate(services(request)?, Some(token), at).map_err(Problem)?)
}
