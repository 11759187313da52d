//! Is it up, and can it do its job?

use std::sync::Arc;

use poem::web::Data;
use poem_openapi::{Object, OpenApi};

use super::Tag;
use super::error::ApiErr;
use super::payload::J;
use crate::service::{Services, health};

/// Health.
pub struct HealthApi;

/// Whether a path asks for the appliance's health.
pub(super) fn is_asked(path: &str) -> bool {
    path.starts_with("/health/")
}

/// A sign of life.
#[derive(Clone, Debug, Object)]
#[oai(rename = "Health")]
pub struct HealthBody {
    /// `ok`.
    pub status: String,
}

#[OpenApi(prefix_path = "/health", tag = "Tag::Health")]
impl HealthApi {
    /// Is the process up?
    ///
    /// Answers 200 as long as the process takes requests, whatever state the database is in.
    #[oai(path = "/live", method = "get", operation_id = "getLiveness")]
    async fn live(&self) -> Result<J<HealthBody>, ApiErr<0>> {
        Ok(J(HealthBody { status: "ok".into() }))
    }

    /// Can it do its job?
    ///
    /// Answers 200 when the database can be read and the writer takes work.
    #[oai(path = "/ready", method = "get", operation_id = "getReadiness")]
    async fn ready(&self, services: Data<&Arc<Services>>) -> Result<J<HealthBody>, ApiErr<0>> {
        health::ready(&services).await?;
        Ok(J(HealthBody { status: "ok".into() }))
    }
}
