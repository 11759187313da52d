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
    /// Let a new key sign access tokens.
    ///
    /// The old ones go on checking tokens until the last one that they signed has expired, so nobody is
    /// logged out. It is on the record.
    #[command(
        after_help = "Examples:\n  latchkey keys rotate\n  latchkey keys rotate --algorithm eddsa --json"
    )]
    Rotate {
        /// What to sign with: tokens.algorithm of the configuration. Another one is refused, since the next start
        /// would go back to the configured one: change it there first.
        #[arg(long, value_enum)]
        algorithm: Option<Algorithm>,
        /// Print it as JSON.
        #[arg(long)]
        json: bool,
    },
    /// Print the names of the keys, that which signs first.
    #[command(after_help = "Examples:\n  latchkey keys list\n  latchkey keys list --json")]
    List {
        /// Print them as JSON: with what they sign, when they were made, and until when an older one checks tokens.
        #[arg(long)]
        json: bool,
    },
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
