//! Listing and ending sessions.

use std::sync::Arc;

use poem::web::Data;
use poem_openapi::param::Path;
use poem_openapi::{ApiResponse, Object, OpenApi};
use uuid::Uuid;

use super::Tag;
use super::error::ApiErr;
use super::error::answers::{S400, S404, S409, S429, SECURED};
use super::payload::J;
use super::principal::Caller;
use super::schema::{Context, Time, WrittenId};
use crate::domain::account::SessionId;
use crate::domain::policy::FactorKind;
use crate::service::Services;
use crate::service::session::{self, SessionRow};
use crate::service::users;

/// Handlers for sessions.
pub struct SessionApi;

/// A session of the caller that can still be used.
#[derive(Clone, Debug, Object)]
#[oai(rename = "Session", rename_all = "camelCase")]
pub struct SessionBody {
    /// Id of the session, which is the `sid` of its access tokens.
    pub id: Uuid,
    /// Whether it is the session that makes this call.
    pub current: bool,
    /// Client IP address at login.
    #[oai(nullable)]
    pub ip_address: Option<String>,
    /// Client `User-Agent` at login.
    #[oai(nullable)]
    pub user_agent: Option<String>,
    /// Kind of the second factor last used in it: `totp`, `passkey` or `recovery-codes`; null if none was used.
    #[oai(nullable)]
    pub second_factor: Option<String>,
    /// When the second factor was last used; null if none was used.
    #[oai(nullable)]
    pub second_factor_at: Option<Time>,
    /// When the session was opened.
    pub created_at: Time,
    /// When the session was last refreshed.
    pub last_used_at: Time,
    /// When the session expires.
    pub expires_at: Time,
}

/// Number of sessions ended.
#[derive(Clone, Debug, Object)]
#[oai(rename = "SessionsEnded", rename_all = "camelCase")]
pub struct SessionsEndedBody {
    /// Number of sessions ended.
    pub sessions_ended: u32,
}

#[derive(ApiResponse)]
enum Ended {
    /// The session is ended.
    #[oai(status = 204)]
    Done,
}

#[OpenApi(prefix_path = "/api/v1", tag = "Tag::Sessions")]
impl SessionApi {
    /// List the caller's own sessions.
    ///
    /// Lists the sessions that can still be used, including the one that makes this call. A session of another
    /// issuer is known only by its token, and is not listed.
    #[oai(path = "/account/sessions", method = "get", operation_id = "listSessions")]
    #[expect(clippy::unused_async, reason = "handlers are async")]
    async fn list_sessions(
        &self,
        caller: Caller,
        services: Data<&Arc<Services>>,
        context: Context,
    ) -> Result<J<Vec<SessionBody>>, ApiErr<{ SECURED | S429 }>> {
        let sessions = session::list_sessions(&services, &caller.0, &context.0)?;
        let current = caller.0.session.id;
        Ok(J(sessions.into_iter().map(|row| body(row, current)).collect()))
    }

    /// End one of the caller's own sessions.
    ///
    /// The session's access and refresh tokens are no longer accepted. The session that makes this call can be
    /// ended, too.
    #[oai(
        path = "/account/sessions/:id",
        method = "delete",
        operation_id = "endSession"
    )]
    async fn end_session(
        &self,
        caller: Caller,
        services: Data<&Arc<Services>>,
        context: Context,
        /// Id of the session.
        id: Path<WrittenId>,
    ) -> Result<Ended, ApiErr<{ SECURED | S404 | S429 }>> {
        session::end_session(&services, &caller.0, &id.0.0, &context.0).await?;
        Ok(Ended::Done)
    }

    /// End all of the caller's own sessions except this one.
    ///
    /// For a user who does not recognise a session in the list. Access tokens of another issuer that were
    /// issued earlier end, too; they are not counted.
    #[oai(
        path = "/account/sessions",
        method = "delete",
        operation_id = "endOtherSessions"
    )]
    async fn end_other_sessions(
        &self,
        caller: Caller,
        services: Data<&Arc<Services>>,
        context: Context,
    ) -> Result<J<SessionsEndedBody>, ApiErr<{ SECURED | S429 }>> {
        let sessions_ended = session::end_other_sessions(&services, &caller.0, &context.0).await?;
        Ok(J(SessionsEndedBody { sessions_ended }))
    }

    /// End every session of a user.
    ///
    /// Logins in progress end, too; second factors stay. Requires the role `ORG_ADMIN`.
    #[oai(
        path = "/users/:id/sessions",
        method = "delete",
        operation_id = "endUserSessions"
    )]
    async fn end_user_sessions(
        &self,
        caller: Caller,
        services: Data<&Arc<Services>>,
        context: Context,
        /// Id of the user.
        id: Path<WrittenId>,
    ) -> Result<J<SessionsEndedBody>, ApiErr<{ SECURED | S400 | S404 | S409 | S429 }>> {
        let sessions_ended = users::end_user_sessions(&services, &caller.0, &context.0, &id.0.0).await?;
        Ok(J(SessionsEndedBody { sessions_ended }))
    }
}

fn body(row: SessionRow, current: SessionId) -> SessionBody {
    let session = row.session;
    SessionBody {
        id: session.id.0,
        current: session.id == current,
        ip_address: row.ip,
        user_agent: row.user_agent,
        second_factor: session.second_factor_kind.map(|kind| {
            match kind {
                FactorKind::Totp => "totp",
                FactorKind::Passkey => "passkey",
                FactorKind::RecoveryCodes => "recovery-codes",
            }
            .to_owned()
        }),
        second_factor_at: session.second_factor_at.map(Time),
        created_at: Time(session.created_at),
        last_used_at: Time(row.last_used_at),
        expires_at: Time(session.expires_at),
    }
}
