//! `/approvals`: requests that need the approval of further administrators.

mod bodies;

use std::sync::Arc;

use poem::web::Data;
use poem_openapi::param::{Path, Query};
use poem_openapi::{ApiResponse, OpenApi};

use super::Tag;
use super::account::MessageBody;
use super::error::ApiErr;
use super::error::answers::{BODY, S400, S404, S409, S429, SECURED};
use super::payload::{Deferred, J, Listed};
use super::principal::Caller;
use super::schema::{Context, WrittenId};
use crate::domain::approval::ApprovalState;
use crate::service::Services;
use crate::service::approvals::{self, ApprovalFilter};

pub use bodies::*;

/// Handlers of `/approvals`.
pub struct ApprovalApi;

#[derive(ApiResponse)]
enum Approved {
    /// The action is carried out and recorded.
    #[oai(status = 200)]
    Done(J<ApproveBody>),
    /// The approval is recorded; still further administrators must approve.
    #[oai(status = 202)]
    Awaits(J<ApproveBody>),
}

#[OpenApi(prefix_path = "/api/v1", tag = "Tag::Approvals")]
impl ApprovalApi {
    /// List approvals.
    ///
    /// Newest first; `X-Total-Count` has the total number of matches. Closed approvals are kept for 90 days.
    /// Requires the role `ORG_ADMIN`.
    #[oai(path = "/approvals", method = "get", operation_id = "listApprovals")]
    #[expect(clippy::unused_async, reason = "handlers are async")]
    async fn list_approvals(
        &self,
        caller: Caller,
        services: Data<&Arc<Services>>,
        context: Context,
        /// Return only approvals in this state.
        state: Query<Option<StateBody>>,
        /// Page number, from 0.
        page: Query<Option<u32>>,
        /// Maximum number of approvals on the page; 50 if absent.
        #[oai(validator(minimum(value = "1"), maximum(value = "1000")))]
        size: Query<Option<u32>>,
    ) -> Result<Listed<Vec<ApprovalBody>>, ApiErr<{ SECURED | S400 | S429 }>> {
        let filter = ApprovalFilter {
            state: state.0.map(ApprovalState::from),
            page: page.0.unwrap_or(0).into(),
            size: size.0.map(u64::from),
        };
        let (approvals, total) = approvals::list_approvals(&services, &caller.0, &context.0, filter)?;
        Ok(Listed {
            items: approvals.into_iter().map(ApprovalBody::from).collect(),
            total,
        })
    }

    /// Get an approval.
    ///
    /// Requires the role `ORG_ADMIN`.
    #[oai(path = "/approvals/:id", method = "get", operation_id = "getApproval")]
    #[expect(clippy::unused_async, reason = "handlers are async")]
    async fn get_approval(
        &self,
        caller: Caller,
        services: Data<&Arc<Services>>,
        context: Context,
        /// Id of the approval.
        id: Path<WrittenId>,
    ) -> Result<J<ApprovalBody>, ApiErr<{ SECURED | S400 | S404 | S429 }>> {
        let found = approvals::get_approval(&services, &caller.0, &context.0, &id.0.0)?;
        Ok(J(found.into()))
    }

    /// Approve a request.
    ///
    /// The last approval needed carries the request out; rules and policies are evaluated again then. The
    /// caller must be an `ORG_ADMIN`, neither the requester nor the user it is about, who had the role before
    /// the request was made. Answers 403 also if, within the last seven days, the requester or an earlier
    /// approver created the caller's account, gave it its role, unlocked it or reset its credentials, or
    /// approved one of these, or the caller created, unlocked or reset theirs or approved that: the two do not
    /// count as two people. Answers 409 also if the account of the requester or of an earlier approver was
    /// recovered since the request: reset, signed out or deactivated by somebody else, or reported by its user.
    #[oai(path = "/approvals/:id/approve", method = "post", operation_id = "approve")]
    async fn approve(
        &self,
        caller: Caller,
        services: Data<&Arc<Services>>,
        context: Context,
        /// Id of the approval.
        id: Path<WrittenId>,
    ) -> Result<Approved, ApiErr<{ SECURED | S400 | S404 | S409 | S429 }>> {
        let agreed = approvals::approve(&services, &caller.0, &context.0, &id.0.0).await?;
        let awaits = agreed.awaits.is_some();
        let body = J(ApproveBody::from(agreed));
        Ok(if awaits {
            Approved::Awaits(body)
        } else {
            Approved::Done(body)
        })
    }

    /// Reject a request.
    ///
    /// Closes the request without carrying it out. Open to every administrator who could approve it, whatever
    /// happened within the last seven days, and to the requester, who withdraws it.
    #[oai(path = "/approvals/:id/reject", method = "post", operation_id = "reject")]
    async fn reject(
        &self,
        caller: Caller,
        services: Data<&Arc<Services>>,
        context: Context,
        /// Id of the approval.
        id: Path<WrittenId>,
        body: Deferred<RejectBody>,
    ) -> Result<J<MessageBody>, ApiErr<{ SECURED | S400 | S404 | S409 | S429 | BODY }>> {
        let reason = body.0.map(|body| body.and_then(|body| body.reason));
        let withdrawn = approvals::reject(&services, &caller.0, &context.0, &id.0.0, reason).await?;
        Ok(J(MessageBody {
            message: if withdrawn { "Withdrawn" } else { "Rejected" }.into(),
        }))
    }
}
