//! `/health/…`: liveness and readiness.

use std::sync::Arc;

use poem::web::Data;
use poem_openapi::{Object, OpenApi};

use super::Tag;
use super::error::ApiErr;
use super::payload::J;
use crate::service::{Services, health};

/// Handlers of `/health/…`.
pub struct HealthApi;

/// Returns whether `path` is a health check.
pub(super) fn is_asked(path: &str) -> bool {
    path.starts_with("/health/")
}

/// Health of the appliance.
#[derive(Clone, Debug, Object)]
#[oai(rename = "Health")]
pub struct HealthBody {
    /// Always `ok`; problems are reported by the HTTP status.
    pub status: String,
}

#[OpenApi(prefix_path = "/health", tag = "Tag::Health")]
impl HealthApi {
    /// Check liveness.
    ///
    /// Answers 200 as long as the process accepts requests, whatever the state of the database.
    #[oai(path = "/live", method = "get", operation_id = "getLiveness")]
    async fn live(&self) -> Result<J<HealthBody>, ApiErr<0>> {
        Ok(J(HealthBody { status: "ok".into() }))
    }

    /// Check readiness.
    ///
    /// Answers 200 if the database can be read and its writer accepts work, and 503 otherwise.
    #[oai(path = "/ready", method = "get", operation_id = "getReadiness")]
    async fn ready(&self, services: Data<&Arc<Services>>) -> Result<J<HealthBody>, ApiErr<0>> {
        health::ready(&services).await?;
        Ok(J(HealthBody { status: "ok".into() }))
    }
}
