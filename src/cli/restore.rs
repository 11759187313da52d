//! `latchkey restore`: creates a data directory from a backup.

use std::path::PathBuf;

use anyhow::Result;
use clap::Args;
use serde_json::{Value, json};
use zeroize::Zeroizing;

use super::backup::Steps;
use super::signals::Interruption;
use super::user::password_from;
use super::{Global, output, process};
use crate::app::App;
use crate::clock::Clock;
use crate::config::Config;
use crate::entropy::Entropy;
use crate::service::backup::{self, Manifest, Restored, Source};
use crate::service::trail;
use crate::store::audit::Revived;

/// Arguments of `latchkey restore`.
#[derive(Debug, Args)]
#[command(
    after_help = "Examples:\n  latchkey restore /mnt/backup/today --data-dir /var/lib/latchkey\n  \
                  latchkey restore /mnt/backup/today --data-dir /tmp/trial --check     changes nothing\n  \
                  latchkey restore /mnt/backup/today --data-dir /var/lib/latchkey --replaced old/latchkey.db"
)]
pub(super) struct Restore {
    /// Directory of the backup; or a database file, such as a replicator keeps, with --keys-from.
    backup: PathBuf,
    /// The newer database that the backup replaces, if it still exists: makes the report of what is back
    /// exact.
    #[arg(long, value_name = "FILE")]
    replaced: Option<PathBuf>,
    /// Read the passphrase of sealed keys from the first line of a file; - is standard input.
    #[arg(long, value_name = "FILE")]
    passphrase_file: Option<PathBuf>,
    /// Directory with the keys, for a backup without keys or for a database file.
    #[arg(long, value_name = "DIR")]
    keys_from: Option<PathBuf>,
    /// Do everything except the last step, and leave nothing behind.
    #[arg(long)]
    check: bool,
    /// Print the result as JSON.
    #[arg(long)]
    json: bool,
}

impl Restore {
    pub(super) fn run(self, global: &Global) -> Result<()> {
        let config = global.load_quietly()?;
        let data_dir = config.data_dir.clone();
        process::refuse_strangers_around(&data_dir)?;
        let witness = config.settings.trail.witness_dir.clone();
        self.replaced.as_deref().map(backup::try_replaced).transpose()?;
        let passphrase = self.passphrase_file.as_deref().map(password_from).transpose()?;
        let source = Source {
            backup: self.backup.clone(),
            passphrase: passphrase.map(Zeroizing::new),
            keys_from: self.keys_from.clone(),
        };
        let mut steps = Steps::default();
        let mut interruption = Interruption::watch()?;
        let (clock, entropy) = (Clock::system(), Entropy::system());
        let watch = &mut |what, done, all| {
            steps.reach(what, done, all);
            interruption.go_on()
        };
        let unpacked = match &source.keys_from {
            Some(keys) if source.backup.is_file() => {
                let url = &config.settings.public_url;
                backup::unpack_database(&source.backup, keys, &data_dir, url, (&clock, &entropy), watch)
            }
            _ => backup::unpack(&source, &data_dir, &entropy, watch),
        };
        steps.finish();
        let (manifest, unfinished) = unpacked?;
        let app = App::open_unchecked(over(config, unfinished.path()))?;
        let restored = super::wait_for_any(backup::conclude_restore(
            &app.services,
            &manifest,
            self.replaced.as_deref(),
            witness.as_deref(),
        ))?;
        // Close everything before the directory gets its final name.
        drop(app);
        if self.check {
            drop(unfinished);
        } else {
            unfinished.finish()?;
            // Only after success: after a failed restore the checkpoint would keep the old data directory
            // from starting.
            if let Some(witness) = witness {
                trail::give_to_witness(&restored, &witness, &entropy);
            }
        }
        self.tell(&manifest, &restored)
    }

    fn tell(&self, manifest: &Manifest, restored: &Restored) -> Result<()> {
        if self.json {
            let revived: Vec<_> = restored.revived.iter().map(revived_in_json).collect();
            return output::json(&json!({
                "restored": !self.check,
                "backupOf": manifest.created_at,
                "entries": manifest.trail.entries,
                "sessionsEnded": restored.sessions_ended,
                "exact": restored.exact,
                "revived": revived,
                "key": restored.key,
            }));
        }
        let done = if self.check { "can be restored" } else { "restored" };
        output::line(format_args!(
            "{done}: the state of {:.0}, {} organisations, {} users, {} entries",
            manifest.created_at, manifest.organizations, manifest.users, manifest.trail.entries
        ))?;
        output::line(format_args!("{} sessions ended", restored.sessions_ended))?;
        let heading = if restored.exact { "back" } else { "possibly back" };
        for one in &restored.revived {
            let ended = if one.kind == "session" { ", ended" } else { "" };
            output::line(format_args!(
                "{heading}: {} of {}, there since {:.0}{ended}",
                one.kind, one.email, one.since
            ))?;
        }
        if self.check {
            return output::line("nothing was changed");
        }
        output::line(format_args!("the trail's key from now on: {}", restored.key))?;
        output::line(NEW_KEY)?;
        output::line(
            "the key of access tokens is still the one in the backup: if others may have had the backup, run \
             latchkey keys rotate",
        )
    }
}

/// The notice about the trail's key after a restore, or after an older database was accepted.
pub(super) const NEW_KEY: &str = "it is a new one that was never in a backup: what the previous key signs from \
                                  now on does not count. If you keep keys apart from backups, store them again";

/// Returns something that the restore brought back, as JSON: sessions are ended, factors and API keys are
/// not.
pub(super) fn revived_in_json(one: &Revived) -> Value {
    json!({ "kind": one.kind, "email": one.email, "since": one.since, "ended": one.kind == "session" })
}

/// Returns the configuration with the unfinished directory in place of the data directory.
fn over(mut config: Config, unfinished: &std::path::Path) -> Config {
    if config.plugins.cache_dir.starts_with(&config.data_dir) {
        config.plugins.cache_dir = unfinished.join("plugin-cache");
    }
    unfinished.clone_into(&mut config.data_dir);
    // A restore that may still be discarded must not be witnessed.
    config.settings.trail.witness_dir = None;
    config
}
