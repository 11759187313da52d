//! `latchkey keys`: the keys that sign access tokens.

use anyhow::Result;
use clap::{Subcommand, ValueEnum};
use serde_json::json;

use super::{Global, output};
use crate::domain::audit::ActorRef;
use crate::domain::credential::TokenAlgorithm;
use crate::service::token_keys;

/// `latchkey keys …`
#[derive(Debug, Subcommand)]
pub(super) enum Command {
    /// Let a new key sign access tokens.
    ///
    /// The old ones go on checking tokens until the last one that they signed has expired, so nobody is
    /// logged out. It is on the record.
    #[command(
        after_help = "Examples:\n  latchkey keys rotate\n  latchkey keys rotate --algorithm eddsa --json"
    )]
    Rotate {
        /// What to sign with [default: tokens.algorithm of the configuration].
        #[arg(long, value_enum)]
        algorithm: Option<Algorithm>,
        /// Print it as JSON.
        #[arg(long)]
        json: bool,
    },
    /// Print the names of the keys, that which signs first.
    List,
}

/// What to sign with.
#[derive(Clone, Copy, Debug, ValueEnum)]
pub(super) enum Algorithm {
    /// A shared secret: only this appliance can check tokens.
    Hs256,
    /// A key pair: others can check tokens with `/.well-known/jwks.json`.
    Eddsa,
}

impl Command {
    pub(super) fn run(self, global: &Global) -> Result<()> {
        let app = global.open()?;
        match self {
            Self::List => {
                for kid in app.services.keys.access().kids() {
                    output::line(kid)?;
                }
                Ok(())
            }
            Self::Rotate { algorithm, json } => {
                let algorithm = match algorithm {
                    None => app.services.settings.token_algorithm,
                    Some(Algorithm::Hs256) => TokenAlgorithm::Hs256,
                    Some(Algorithm::Eddsa) => TokenAlgorithm::EdDsa,
                };
                let done = token_keys::rotate_keys(&app.services, algorithm, ActorRef::operator())?;
                if json {
                    return output::json(&json!({
                        "kid": done.kid, "algorithm": algorithm.name(), "oldKeysUntil": done.old_until,
                    }));
                }
                output::line(format!(
                    "{} signs from now on ({}); older keys check tokens until {}",
                    done.kid,
                    algorithm.name(),
                    done.old_until
                ))
            }
        }
    }
}
