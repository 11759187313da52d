//! Listing and restoring factors that were removed.

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

/// Handlers for restoring factors.
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

/// A factor that was removed and can still be restored.
#[derive(Clone, Debug, Object)]
#[oai(rename = "SuspendedFactor", rename_all = "camelCase")]
pub struct SuspendedFactorBody {
    /// Kind of the factor.
    pub kind: FactorKindBody,
    /// When it was set up.
    pub enrolled_at: Time,
    /// When it was last used; null if never.
    #[oai(nullable)]
    pub last_used_at: Option<Time>,
    /// When it was removed.
    pub taken_at: Time,
    /// When it will be destroyed.
    pub destroyed_at: Time,
}

/// Result of restoring factors.
#[derive(Clone, Debug, Object)]
#[oai(
    rename = "RestoreFactorsResponse",
    rename_all = "camelCase",
    skip_serializing_if_is_none
)]
pub struct RestoredBody {
    /// `Factors restored successfully`, or `Restoring factors awaits approval`.
    pub message: String,
    /// Id of the approval that restoring waits for; only with 202.
    pub approval_id: Option<String>,
    /// Number of sessions ended.
    pub sessions_ended: u32,
}

#[derive(ApiResponse)]
enum Restored {
    /// The factors are restored; this is recorded and on disk.
    #[oai(status = 200)]
    Done(J<RestoredBody>),
    /// Another administrator must approve; nothing has been changed.
    #[oai(status = 202)]
    Awaits(J<RestoredBody>),
}

#[OpenApi(prefix_path = "/api/v1", tag = "Tag::Users")]
impl RestoreApi {
    /// List a user's factors that can be restored.
    ///
    /// Factors that were removed by a reset or by the user can't be used, but are kept for some days. Most
    /// recently removed first. Requires the role `ORG_ADMIN`.
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
        /// Id of the user.
        id: Path<WrittenId>,
    ) -> Result<J<Vec<SuspendedFactorBody>>, ApiErr<{ SECURED | S400 | S404 | S429 }>> {
        let found = users::list_suspended_factors(&services, &caller.0, &id.0.0)?;
        Ok(J(found.into_iter().map(SuspendedFactorBody::from).collect()))
    }

    /// Restore a user's removed factors.
    ///
    /// Factors that a reset removed work again, for example when the user finds the device. Factors that were
    /// set up since are destroyed, and sessions end. If the account was locked by the user's own report or by a
    /// missed enrolment, it is unlocked. Requires the role `ORG_ADMIN`. Answers 400 if there is nothing to
    /// restore.
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
        /// Id of the user.
        id: Path<WrittenId>,
        /// Restore the factors removed at this time or, if none were, the last ones before it. If absent and
        /// factors were removed more than once, the answer is 409 and lists the times.
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
