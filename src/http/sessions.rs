//! Sessions, seen and ended.

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

/// Sessions, seen and ended.
pub struct SessionApi;

/// A live session of the caller.
#[derive(Clone, Debug, Object)]
#[oai(rename = "Session", rename_all = "camelCase")]
pub struct SessionBody {
    /// Id, the `sid` of its access tokens.
    pub id: Uuid,
    /// Whether it is the one that asks.
    pub current: bool,
    /// Where it was opened from.
    #[oai(nullable)]
    pub ip_address: Option<String>,
    /// With what.
    #[oai(nullable)]
    pub user_agent: Option<String>,
    /// The second factor that was used in it: `totp`, `passkey` or `recovery-codes`.
    #[oai(nullable)]
    pub second_factor: Option<String>,
    /// When that was.
    #[oai(nullable)]
    pub second_factor_at: Option<Time>,
    /// When it was opened.
    pub created_at: Time,
    /// When it was refreshed last.
    pub last_used_at: Time,
    /// When it ends by itself.
    pub expires_at: Time,
}

/// How many sessions were ended.
#[derive(Clone, Debug, Object)]
#[oai(rename = "SessionsEnded", rename_all = "camelCase")]
pub struct SessionsEndedBody {
    /// How many there were.
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
    /// List one's own sessions.
    ///
    /// Those that can still be used, the one that asks among them. A session of another issuer is known by its
    /// token alone, and not listed.
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

    /// End one of one's own sessions.
    ///
    /// Its access and refresh tokens open nothing from then on. The one that asks can be ended, too.
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
        /// The session's id.
        id: Path<WrittenId>,
    ) -> Result<Ended, ApiErr<{ SECURED | S404 | S429 }>> {
        session::end_session(&services, &caller.0, &id.0.0, &context.0).await?;
        Ok(Ended::Done)
    }

    /// End all of one's own sessions but this one.
    ///
    /// For somebody who sees a session in the list that is not theirs. Access tokens of another issuer that were
    /// issued before end, too; they are not in the count.
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

    /// End every session of a user of the organisation.
    ///
    /// Requires the role `ORG_ADMIN`. Logins under way end too; second factors stay.
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
        /// The user's id.
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
