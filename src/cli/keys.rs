//! `latchkey keys`: the keys that sign access tokens.

use anyhow::Result;
use clap::{Subcommand, ValueEnum};
use serde_json::json;

use super::exit::Refusal;
use super::{Global, output};
use crate::domain::audit::ActorRef;
use crate::domain::credential::TokenAlgorithm;
use crate::service::token_keys;

/// `latchkey keys …`
#[derive(Debug, Subcommand)]
pub(super) enum Command {
    /// Create a new key that signs access tokens from now on.
    ///
    /// Older keys keep verifying tokens until the last token that they signed has expired, so nobody is
    /// logged out. The rotation is recorded in the audit trail.
    #[command(
        after_help = "Examples:\n  latchkey keys rotate\n  latchkey keys rotate --algorithm eddsa --json"
    )]
    Rotate {
        /// Algorithm to sign with [default: tokens.algorithm of the configuration]. Any other is refused,
        /// because the next start would return to the configured one: change the configuration first.
        #[arg(long, value_enum)]
        algorithm: Option<Algorithm>,
        /// Print the new key and the expiry of the older ones as JSON.
        #[arg(long)]
        json: bool,
    },
    /// List the key ids (kid), the signing key first.
    #[command(after_help = "Examples:\n  latchkey keys list\n  latchkey keys list --json")]
    List {
        /// Print the keys as JSON: with their algorithm, when they were created, and until when an older one
        /// verifies tokens.
        #[arg(long)]
        json: bool,
    },
}

/// Signature algorithm of access tokens.
#[derive(Clone, Copy, Debug, ValueEnum)]
pub(super) enum Algorithm {
    /// A symmetric key: only this appliance can verify tokens.
    Hs256,
    /// A key pair: others can verify tokens with `/.well-known/jwks.json`.
    Eddsa,
}

impl Command {
    pub(super) fn run(self, global: &Global) -> Result<()> {
        let app = global.open()?;
        match self {
            Self::List { json: true } => {
                let keys = token_keys::list_keys(&app.services);
                let keys = keys.iter().map(|key| {
                    json!({
                        "kid": key.kid, "algorithm": key.algorithm.name(), "created": key.created_at,
                        "lapses": key.lapses_at,
                    })
                });
                output::json(&keys.collect::<Vec<_>>())
            }
            Self::List { json: false } => {
                for kid in app.services.keys.access().kids() {
                    output::line(kid)?;
                }
                Ok(())
            }
            Self::Rotate { algorithm, json } => {
                let configured = app.services.settings.token_algorithm;
                let algorithm = match algorithm {
                    None => configured,
                    Some(Algorithm::Hs256) => TokenAlgorithm::Hs256,
                    Some(Algorithm::Eddsa) => TokenAlgorithm::EdDsa,
                };
                if algorithm != configured {
                    let text = format!(
                        "tokens.algorithm is {:?} in the configuration, and the next start would go back to it; set it \
                         to {:?} there first",
                        configured.name(),
                        algorithm.name()
                    );
                    return Err(Refusal(text).into());
                }
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
