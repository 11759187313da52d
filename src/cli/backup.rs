//! `latchkey backup`: makes a copy of the appliance, also while a server runs.

use std::path::PathBuf;

use anyhow::Result;
use clap::{Args, ValueEnum};
use serde_json::json;
use zeroize::Zeroizing;

use super::signals::Interruption;
use super::user::password_from;
use super::{Global, Progress, output};
use crate::clock::Clock;
use crate::entropy::Entropy;
use crate::service::backup::{self, BackupOrder, KeyChoice};

/// Arguments of `latchkey backup`.
#[derive(Debug, Args)]
#[command(
    after_help = "Examples:\n  latchkey backup --data-dir /var/lib/latchkey /mnt/backup/today\n  \
                  latchkey backup /mnt/backup/today --keys sealed --passphrase-file secret\n  \
                  latchkey audit verify /mnt/backup/today\n  \
                  latchkey restore /mnt/backup/today --data-dir /tmp/trial --check"
)]
pub(super) struct Backup {
    /// Directory to create for the backup.
    destination: PathBuf,
    /// How the backup includes the keys.
    ///
    /// plain: unencrypted, mode 0600; anyone who gets the backup can read every TOTP secret and sign the
    /// trail. sealed: encrypted under a passphrase. none: left out; without a copy of them no TOTP secret can
    /// ever be read again.
    #[arg(long, value_enum, default_value_t = Keys::Plain)]
    keys: Keys,
    /// Read the passphrase of sealed keys from the first line of a file; - is standard input.
    #[arg(long, value_name = "FILE", required_if_eq("keys", "sealed"))]
    passphrase_file: Option<PathBuf>,
    /// Print the manifest as JSON.
    #[arg(long)]
    json: bool,
}

/// How a backup includes the keys.
#[derive(Clone, Copy, Debug, ValueEnum)]
pub(super) enum Keys {
    /// Unencrypted, mode 0600.
    Plain,
    /// Encrypted under a passphrase.
    Sealed,
    /// Left out.
    None,
}

impl From<Keys> for KeyChoice {
    fn from(keys: Keys) -> Self {
        match keys {
            Keys::Plain => Self::Plain,
            Keys::Sealed => Self::Sealed,
            Keys::None => Self::None,
        }
    }
}

impl Backup {
    pub(super) fn run(self, global: &Global) -> Result<()> {
        let config = global.load_quietly()?;
        let passphrase = self.passphrase_file.as_deref().map(password_from).transpose()?;
        let order = BackupOrder {
            data_dir: config.data_dir,
            destination: self.destination,
            keys: self.keys.into(),
            passphrase: passphrase.map(Zeroizing::new),
            public_url: config.settings.public_url,
        };
        let mut steps = Steps::default();
        let mut interruption = Interruption::watch()?;
        let manifest = backup::create(
            &order,
            &Clock::system(),
            &Entropy::system(),
            &mut |what, done, all| {
                steps.reach(what, done, all);
                interruption.go_on()
            },
        )?;
        steps.finish();
        let place = order.destination.display().to_string();
        if self.json {
            return output::json(&json!({ "path": place, "manifest": manifest }));
        }
        let bytes: u64 = manifest.files.values().map(|file| file.bytes).sum();
        output::line(format_args!(
            "{place}: {} organisations, {} users, {} entries, {bytes} bytes; the trail is intact",
            manifest.organizations, manifest.users, manifest.trail.entries
        ))?;
        eprintln!(
            "{}",
            match order.keys {
                KeyChoice::Plain =>
                    "It has the keys as they are: whoever gets it can read every TOTP secret. Keep it as you keep the \
                     data directory.",
                KeyChoice::Sealed =>
                    "Its keys are under the passphrase: without it no TOTP secret can be read again.",
                KeyChoice::None =>
                    "It has no keys: keep a copy of the keys directory elsewhere, without it no TOTP secret can be read \
                     again.",
            }
        );
        Ok(())
    }
}

/// Progress bars, one for each step of the work.
#[derive(Default)]
pub(super) struct Steps(Option<(&'static str, Progress)>);

impl Steps {
    pub(super) fn reach(&mut self, what: &'static str, done: u64, all: u64) {
        if self.0.as_ref().is_none_or(|(shown, _)| *shown != what) {
            self.finish();
            self.0 = Some((what, Progress::new(what, all)));
        }
        if let Some((_, bar)) = &self.0 {
            bar.reach(done);
        }
    }

    pub(super) fn finish(&mut self) {
        if let Some((_, bar)) = self.0.take() {
            bar.finish();
        }
    }
}
