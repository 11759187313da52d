//! Factors that a reset took away: seen and given back.

use std::sync::Arc;

use poem::web::Data;
use poem_openapi::param::{Path, Query};
use poem_openapi::{ApiResponse, Enum, Object, OpenApi};

use super::Tag;
use super::error::ApiErr;
use super::error::answers::{S400, S404, S409, S429, SECURED};
use super::payload::J;
use super::principal::Caller;
use super::schema::{Context, Time, WrittenId};
use crate::domain::policy::FactorKind;
use crate::service::Services;
use crate::service::users::{self, Suspended};

/// Restoring factors.
pub struct RestoreApi;

/// A kind of second factor.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Enum)]
#[oai(rename = "FactorKind", rename_all = "kebab-case")]
pub enum FactorKindBody {
    /// An authenticator app.
    Totp,
    /// A passkey.
    Passkey,
    /// Recovery codes.
    RecoveryCodes,
}

/// A factor that was taken away and can still be restored.
#[derive(Clone, Debug, Object)]
#[oai(rename = "SuspendedFactor", rename_all = "camelCase")]
pub struct SuspendedFactorBody {
    /// What it is.
    pub kind: FactorKindBody,
    /// When it was set up.
    pub enrolled_at: Time,
    /// When it was last used.
    #[oai(nullable)]
    pub last_used_at: Option<Time>,
    /// When it was taken away.
    pub taken_at: Time,
    /// When it is destroyed.
    pub destroyed_at: Time,
}

/// How restoring went.
#[derive(Clone, Debug, Object)]
#[oai(
    rename = "RestoreFactorsResponse",
    rename_all = "camelCase",
    skip_serializing_if_is_none
)]
pub struct RestoredBody {
    /// `Factors restored successfully`, or `Restoring factors awaits approval`.
    pub message: String,
    /// Only with 202: what another admin approves or rejects.
    pub approval_id: Option<String>,
    /// How many sessions were ended.
    pub sessions_ended: u32,
}

#[derive(ApiResponse)]
enum Restored {
    /// The factors work again; recorded and on disk.
    #[oai(status = 200)]
    Done(J<RestoredBody>),
    /// Another admin has to agree; nothing has been changed.
    #[oai(status = 202)]
    Awaits(J<RestoredBody>),
}

#[OpenApi(prefix_path = "/api/v1", tag = "Tag::Users")]
impl RestoreApi {
    /// List factors that can be restored.
    ///
    /// What a reset, or the user, took away is of no use to anybody, but kept for some days. The latest taken
    /// first. Requires the role `ORG_ADMIN`.
    #[oai(
        path = "/users/:id/suspended-factors",
        method = "get",
        operation_id = "listSuspendedFactors"
    )]
    #[expect(clippy::unused_async, reason = "handlers are async")]
    async fn list_suspended_factors(
        &self,
        caller: Caller,
        services: Data<&Arc<Services>>,
        /// The user's id.
        id: Path<WrittenId>,
    ) -> Result<J<Vec<SuspendedFactorBody>>, ApiErr<{ SECURED | S400 | S404 | S429 }>> {
        let found = users::list_suspended_factors(&services, &caller.0, &id.0.0)?;
        Ok(J(found.into_iter().map(SuspendedFactorBody::from).collect()))
    }

    /// Restore factors.
    ///
    /// The factors that a reset took away work again, the user's own device for example; what was set up
    /// since is destroyed, and sessions end. Where the user's report, or a missed enrolment, had locked the
    /// account, it is unlocked. Requires the role `ORG_ADMIN`; 400 where there is nothing to restore.
    #[oai(
        path = "/users/:id/restore-factors",
        method = "post",
        operation_id = "restoreFactors"
    )]
    async fn restore_factors(
        &self,
        caller: Caller,
        services: Data<&Arc<Services>>,
        context: Context,
        /// The user's id.
        id: Path<WrittenId>,
        /// Where factors were taken away more than once: those taken at this time or the last ones before it.
        /// Without it that is a 409, which names the times.
        #[oai(name = "takenBefore")]
        taken_before: Query<Option<Time>>,
    ) -> Result<Restored, ApiErr<{ SECURED | S400 | S404 | S409 | S429 }>> {
        let taken_before = taken_before.0.map(|time| time.0);
        let outcome = users::restore_factors(&services, &caller.0, &context.0, &id.0.0, taken_before).await?;
        let awaits = outcome.approval_id.is_some();
        let body = J(RestoredBody {
            message: if awaits {
                "Restoring factors awaits approval".into()
            } else {
                "Factors restored successfully".into()
            },
            approval_id: outcome.approval_id.map(|id| id.to_string()),
            sessions_ended: outcome.sessions_ended,
        });
        Ok(if awaits {
            Restored::Awaits(body)
        } else {
            Restored::Done(body)
        })
    }
}

impl From<Suspended> for SuspendedFactorBody {
    fn from(suspended: Suspended) -> Self {
        Self {
            kind: suspended.facts.kind.into(),
            enrolled_at: Time(suspended.facts.enrolled_at),
            last_used_at: suspended.facts.last_used_at.map(Time),
            taken_at: Time(suspended.taken_at),
            destroyed_at: Time(suspended.destroyed_at),
        }
    }
}

impl From<FactorKind> for FactorKindBody {
    fn from(kind: FactorKind) -> Self {
        match kind {
            FactorKind::Totp => Self::Totp,
            FactorKind::Passkey => Self::Passkey,
            FactorKind::RecoveryCodes => Self::RecoveryCodes,
        }
    }
}
