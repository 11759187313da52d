//! `latchkey restore`: a backup becomes a data directory again.

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

/// `latchkey restore`
///
/// Checks the backup (every file's hash, who made the manifest, the database, the trail), copies it into the
/// data directory, which must be new or empty, ends every session in it, and records the restore. It says which
/// factors, sessions and API keys are back. The trail goes on under a new name and with a new key, which was in no
/// backup, and which readers have to be given. The key of access tokens stays: if others may have had the backup,
/// latchkey keys rotate.
#[derive(Debug, Args)]
#[command(
    after_help = "Examples:\n  latchkey restore /mnt/backup/today --data-dir /var/lib/latchkey\n  \
                  latchkey restore /mnt/backup/today --data-dir /tmp/trial --check     changes nothing\n  \
                  latchkey restore /mnt/backup/today --data-dir /var/lib/latchkey --replaced old/latchkey.db"
)]
pub(super) struct Restore {
    /// The backup; or a database file, such as a replicator keeps, with --keys-from.
    backup: PathBuf,
    /// The newer database, if it is still there: tells exactly what is back.
    #[arg(long, value_name = "FILE")]
    replaced: Option<PathBuf>,
    /// Read the passphrase of sealed keys from a file's first line; - is standard input.
    #[arg(long, value_name = "FILE")]
    passphrase_file: Option<PathBuf>,
    /// The directory with the keys, for a backup without or a database file.
    #[arg(long, value_name = "DIR")]
    keys_from: Option<PathBuf>,
    /// Do everything but the last step, and leave nothing behind.
    #[arg(long)]
    check: bool,
    /// Print what was done as JSON.
    #[arg(long)]
    json: bool,
}

impl Restore {
    pub(super) fn run(self, global: &Global) -> Result<()> {
        let config = global.load_quietly()?;
        let data_dir = config.data_dir.clone();
        process::refuse_strangers_around(&data_dir)?;
        let witness = config.settings.trail.witness_dir.clone();
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
        // Everything is closed before the directory gets its name.
        drop(app);
        if self.check {
            drop(unfinished);
        } else {
            unfinished.finish()?;
            // Not before: of a restore that failed it would keep the old data directory from starting.
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
        output::line(format_args!("the trail's key from here on: {}", restored.key))?;
        output::line(NEW_KEY)?;
        output::line(
            "the key of access tokens is still the backup's: if others may have had it, latchkey keys rotate",
        )
    }
}

/// What is said of the trail's key after a restore, or once an older database was accepted.
pub(super) const NEW_KEY: &str = "it is a new one, that was never in a backup: what the one before signs from here on \
                                  counts for nothing. Where keys are kept apart from backups, keep these";

/// Something that is back: sessions are ended, the others are not.
pub(super) fn revived_in_json(one: &Revived) -> Value {
    json!({ "kind": one.kind, "email": one.email, "since": one.since, "ended": one.kind == "session" })
}

/// The configuration for the directory that is not at its place yet.
fn over(mut config: Config, unfinished: &std::path::Path) -> Config {
    if config.plugins.cache_dir.starts_with(&config.data_dir) {
        config.plugins.cache_dir = unfinished.join("plugin-cache");
    }
    unfinished.clone_into(&mut config.data_dir);
    // What may be thrown away again is not to be witnessed.
    config.settings.trail.witness_dir = None;
    config
}
