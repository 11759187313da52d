//! `latchkey user import`: creates users from a file.

use std::fs::{File, OpenOptions};
use std::io::{self, Read as _, Write as _};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use anyhow::{Context as _, Result};
use clap::{Args, ValueEnum};
use serde_json::json;

use super::role_name;
use crate::cli::exit::Refusal;
use crate::cli::{Global, Progress, output, wait_for};
use crate::service::users::{Format, ImportOptions, Imported, ShownLink, import_users};

/// Largest file, in bytes.
const SIZE_LIMIT: u64 = 32 * 1024 * 1024;

#[derive(Debug, Args)]
pub(in crate::cli) struct Import {
    /// CSV or JSON file; - is standard input.
    file: PathBuf,
    /// Slug of the organisation.
    #[arg(long, value_name = "SLUG")]
    org: String,
    /// File format [default: by the file name, .csv or .json].
    #[arg(long, value_enum)]
    format: Option<FormatName>,
    /// Check every line, but change nothing.
    #[arg(long)]
    dry_run: bool,
    /// Skip users that already exist, instead of refusing their lines.
    #[arg(long)]
    skip_existing: bool,
    /// Write links for setting a password to a new file, readable by its owner only, to be handed over.
    /// Refused if the appliance sends mail: then it mails the links itself.
    #[arg(long, value_name = "FILE")]
    links: Option<PathBuf>,
    /// Print the report as JSON.
    #[arg(long)]
    json: bool,
}

#[derive(Clone, Copy, Debug, ValueEnum)]
enum FormatName {
    Csv,
    Json,
}

impl Import {
    pub(in crate::cli) fn run(self, global: &Global) -> Result<()> {
        let format = self.format()?;
        let bytes = read(&self.file)?;
        let app = global.open()?;
        if self.links.is_some() && app.services.settings.mail {
            let text = "mail is configured: latchkey serve mails each link to whom it is for, and no file of them is \
                        written; leave --links out";
            return Err(Refusal(text.to_owned()).into());
        }
        let options = ImportOptions {
            format,
            dry_run: self.dry_run,
            skip_existing: self.skip_existing,
            show_links: self.links.is_some(),
        };
        let links = match &self.links {
            Some(path) if !self.dry_run => Some((path, new_file(path)?)),
            _ => None,
        };
        let progress = Progress::new("Importing", count(&bytes, format));
        let watch = {
            let progress = progress.clone();
            Arc::new(move |done| progress.reach(done))
        };
        let ended = wait_for(import_users(&app.services, &self.org, &bytes, options, watch));
        progress.finish();
        let kept = match (links, &ended) {
            (Some((path, file)), Ok(imported)) if !imported.links.is_empty() => {
                let written = write_links(file, &imported.links);
                written.map_err(|error| lost_links(path, imported.links.len(), &error))
            }
            // No links were made: remove the empty file.
            (Some((path, _)), _) => std::fs::remove_file(path)
                .with_context(|| format!("{} is empty and can't be removed", path.display())),
            (None, _) => Ok(()),
        };
        let imported = ended?;
        // The users exist by now, whatever became of their links.
        let reported = self.report(&imported, app.services.settings.mail, kept.is_ok());
        kept.and(reported)
    }

    fn format(&self) -> Result<Format> {
        let named = self.file.extension().and_then(std::ffi::OsStr::to_str);
        match (self.format, named.map(str::to_ascii_lowercase).as_deref()) {
            (Some(FormatName::Csv), _) | (None, Some("csv")) => Ok(Format::Csv),
            (Some(FormatName::Json), _) | (None, Some("json")) => Ok(Format::Json),
            (None, _) => {
                let text = "the file name does not show the format; give --format csv or --format json";
                Err(Refusal(text.to_owned()).into())
            }
        }
    }

    fn report(&self, imported: &Imported, mail: bool, links_kept: bool) -> Result<()> {
        let refused = imported.refused.len();
        if self.json {
            output::json(&in_json(imported, self.dry_run))?;
        } else {
            self.lines(imported, mail, links_kept)?;
        }
        if refused > 0 {
            let text = format!(
                "{refused} {} refused; nobody was imported",
                plural(refused, "line was", "lines were")
            );
            return Err(Refusal(text).into());
        }
        Ok(())
    }

    fn lines(&self, imported: &Imported, mail: bool, links_kept: bool) -> Result<()> {
        if !imported.refused.is_empty() {
            let rows: Vec<_> = imported
                .refused
                .iter()
                .map(|refused| {
                    [
                        refused.at.to_string(),
                        refused.field.to_owned(),
                        refused.reason.clone(),
                    ]
                })
                .collect();
            return output::table(["LINE", "FIELD", "REASON"], &rows);
        }
        let all = imported.users.len();
        let users = plural(all, "user", "users");
        let done = if self.dry_run {
            "would be imported"
        } else {
            "imported"
        };
        output::line(format_args!("{all} {users} {done} into {}", self.org))?;
        if imported.existing > 0 {
            output::line(format_args!("{} skipped: they already exist", imported.existing))?;
        }
        if self.dry_run || all == 0 {
            return Ok(());
        }
        match (&self.links, mail) {
            (_, true) => output::line(format_args!(
                "{} {} to set a password will be mailed by latchkey serve",
                imported.mailed,
                plural(imported.mailed, "link", "links")
            )),
            (Some(_), false) if !links_kept => Ok(()),
            (Some(path), false) => output::line(format_args!(
                "Links to set a password, valid for 7 days: {}",
                path.display()
            )),
            (None, false) => output::line(
                "None of them has a password: no mail is configured and --links was not given. An admin resets \
                 each one's password to get a link to hand over.",
            ),
        }
    }
}

fn plural<'a>(count: usize, one: &'a str, many: &'a str) -> &'a str {
    if count == 1 { one } else { many }
}

fn in_json(imported: &Imported, dry_run: bool) -> serde_json::Value {
    let users = imported.users.iter();
    let refused = imported.refused.iter();
    json!({
        "dryRun": dry_run,
        "imported": users
            .map(|user| json!({ "id": user.id, "email": user.email, "role": role_name(user.role) }))
            .collect::<Vec<_>>(),
        "existing": imported.existing,
        "refused": refused
            .map(|r| json!({ "line": r.at, "field": r.field, "reason": r.reason }))
            .collect::<Vec<_>>(),
    })
}

/// Returns the approximate number of users in the file, for the progress bar.
fn count(bytes: &[u8], format: Format) -> u64 {
    let mark = match format {
        Format::Csv => b'\n',
        Format::Json => b'{',
    };
    bytes.split(|b| *b == mark).count().saturating_sub(1).max(1) as u64
}

fn read(file: &Path) -> Result<Vec<u8>> {
    let mut bytes = Vec::new();
    let limited = SIZE_LIMIT + 1;
    let read = if file == Path::new("-") {
        io::stdin().take(limited).read_to_end(&mut bytes)
    } else {
        File::open(file).and_then(|open| open.take(limited).read_to_end(&mut bytes))
    };
    let read = read.map_err(|error| Refusal(format!("{} can't be read: {error}", file.display())))?;
    if read as u64 > SIZE_LIMIT {
        let text = format!(
            "the file is larger than {} MiB; split it",
            SIZE_LIMIT / 1024 / 1024
        );
        return Err(Refusal(text).into());
    }
    Ok(bytes)
}

/// Creates the file for links that open accounts: it must not exist, and is readable by its owner only.
fn new_file(path: &Path) -> Result<File> {
    OpenOptions::new()
        .write(true)
        .create_new(true)
        .mode(0o600)
        .open(path)
        .map_err(|error| Refusal(format!("{} can't be made: {error}", path.display())).into())
}

/// Returns what to do about links that could not be written, which nothing shows a second time.
fn lost_links(path: &Path, links: usize, error: &anyhow::Error) -> anyhow::Error {
    anyhow::anyhow!(
        "{links} {} imported, but the links to set a password can't be written to {}, and those that are not in it are \
         lost: {error:#}. Don't import the file again: an admin resets each one's password to get a new link to hand \
         over",
        plural(links, "user was", "users were"),
        path.display()
    )
}

fn write_links(file: File, links: &[(String, ShownLink)]) -> Result<()> {
    let mut writer = csv::Writer::from_writer(file);
    writer.write_record(["email", "link", "expires"])?;
    for (email, shown) in links {
        writer.write_record([email, &shown.link, &format!("{:.0}", shown.expires_at)])?;
    }
    let mut file = writer.into_inner().map_err(|error| anyhow::anyhow!("{error}"))?;
    file.flush()?;
    Ok(file.sync_all()?)
}
