//! `latchkey openapi`: prints the OpenAPI document without a server.

use anyhow::Result;
use clap::Args;

use super::output;
use crate::http;

/// Arguments of `latchkey openapi`.
#[derive(Debug, Args)]
#[command(
    after_help = "Examples:\n  latchkey openapi > openapi.json\n  latchkey openapi --yaml > openapi.yaml"
)]
pub(super) struct OpenApi {
    /// Print YAML instead of JSON.
    #[arg(long)]
    yaml: bool,
}

impl OpenApi {
    pub(super) fn run(&self) -> Result<()> {
        if self.yaml {
            return output::line(http::document_yaml().trim_end());
        }
        output::json(&http::document())
    }
}
