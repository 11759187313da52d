//! From the `Authorization` header to a [`Principal`]. The first argument of every secured handler, so
//! that 401 comes before everything else.

use std::sync::Arc;

use poem::Request;
use poem_openapi::SecurityScheme;
use poem_openapi::auth::Bearer;

use super::error::Problem;
use crate::domain::account::Principal;
use crate::service::{RequestContext, Services, session};

/// A caller with a good token, in whatever session: only set-up of MFA and logout take an enrolment-only
/// one.
#[derive(SecurityScheme)]
#[oai(rename = "bearerAuth", ty = "bearer", bearer_format = "JWT", checker = "any_session")]
pub struct AnySession(pub Principal);

/// A caller with a good token, in a full session.
#[derive(SecurityScheme)]
#[oai(rename = "bearerAuth", ty = "bearer", bearer_format = "JWT", checker = "full_session")]
pub struct Caller(pub Principal);

async fn any_session(request: &Request, bearer: Bearer) -> poem::Result<Principal> {
    Ok(authenticate(request, &bearer.token)?)
}

async fn full_session(request: &Request, bearer: Bearer) -> poem::Result<Principal> {
    let principal = authenticate(request, &bearer.token)?;
    principal.full().map_err(Problem)?;
    Ok(principal)
}

fn authenticate(request: &Request, token: &str) -> Result<Principal, Problem> {
    let services: &Arc<Services> = request.data().expect("app gives every route its services");
    let context: &RequestContext = request.data().expect("the envelope gives every request its context");
    Ok(session::authenticate(services, Some(token), context.at)?)
}
