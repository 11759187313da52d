//! `latchkey audit`: exports, verifies and signs the audit trail.

mod change;
mod export;
mod verify;

use std::fs::File;
use std::io::{self, BufReader, Read as _, Write as _};
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result};
use clap::{Subcommand, ValueEnum};
use jiff::Timestamp;
use serde_json::json;
use uuid::Uuid;

use super::exit::Refusal;
use super::{Global, orders, output};
use crate::domain::account::UserId;
use crate::domain::audit::export::EntryLine;
use crate::domain::audit::{LogKey, LogKeys, Record, check_receipt};
use crate::service::trail::TrailOrder;

/// `latchkey audit …`
#[derive(Debug, Subcommand)]
pub enum AuditCommand {
    /// Export the audit trail to a file that carries its own proof.
    ///
    /// Works while a server runs: the server records and signs the export, and the entries are read beside
    /// it. The export is recorded before it starts, so that an interrupted one is on record as well.
    #[command(after_help = "Examples:\n  latchkey audit export --out trail.ndjson\n  \
                      latchkey audit export --org acme --from 2026-01-01 --format csv --out acme.csv")]
    Export {
        /// File to create, readable by its owner only [default: standard output].
        #[arg(long, value_name = "FILE")]
        out: Option<PathBuf>,
        /// Output format.
        #[arg(long, value_enum, default_value_t = FormatArg::Ndjson)]
        format: FormatArg,
        /// Only entries of this organisation.
        #[arg(long, value_name = "SLUG")]
        org: Option<String>,
        /// Only entries from this time on (RFC 3339), or from the start of this day, UTC (2026-01-31).
        #[arg(long, value_name = "TIME|DATE", value_parser = export::time)]
        from: Option<Timestamp>,
        /// Only entries up to this time (RFC 3339), or up to the start of this day, UTC (2026-02-28).
        #[arg(long, value_name = "TIME|DATE", value_parser = export::time)]
        to: Option<Timestamp>,
    },
    /// Verify an export or a data directory: reports edited, missing, reordered and cut-off entries.
    ///
    /// Needs only the file and the key. A data directory may be in use at the same time. Exits with 0 if the
    /// trail is intact, and with 1 if anything was found, if no checkpoint by a trusted key vouches for the
    /// trail (`unsigned`), if a given checkpoint belongs to a history that was given up (`superseded`), or if
    /// an export of a part has nothing to compare a given checkpoint with (`not-compared`). Exits with 4 if there
    /// is no database that can be read.
    /// The newest entries may be unsigned for as long as a server leaves them so: 10,000 entries, 5 minutes.
    #[command(
        after_help = "Examples:\n  latchkey audit verify trail.ndjson --key mfa.example.org/audit-log+1a2b3c4d+AT…\n  \
                      latchkey audit verify /var/lib/latchkey --key key.txt --checkpoint march.checkpoint --json"
    )]
    Verify {
        /// An export, `-` for standard input, or a data directory.
        target: PathBuf,
        /// Public key of the trail, or a file with one key per line; may be repeated. Obtain it by another
        /// way than the trail.
        #[arg(long = "key", value_name = "KEY|FILE")]
        keys: Vec<String>,
        /// A checkpoint that you kept: detects entries rewritten even with the signing key. May be repeated.
        #[arg(long = "checkpoint", value_name = "FILE")]
        checkpoints: Vec<PathBuf>,
        /// Accept up to N unsigned entries at the end of the trail, however old they are.
        #[arg(long, value_name = "N")]
        allow_unsigned: Option<u64>,
        /// Print the report as JSON.
        #[arg(long)]
        json: bool,
    },
    /// Sign the trail as it is now, and print the checkpoint. Keep it somewhere else.
    #[command(after_help = "Example:\n  latchkey audit checkpoint > \"$(date +%F).checkpoint\"")]
    Checkpoint,
    /// Print the receipt of an entry: the entry, and the proof that it is in the trail.
    #[command(
        after_help = "Example:\n  latchkey audit prove 019c7063-9f40-7cc3-98c4-dc0c0c07398f > reset.tlog-proof"
    )]
    Prove {
        /// Id of the entry (UUID).
        id: Uuid,
    },
    /// Verify a receipt without the trail. Text before the receipt, such as that of a mail, is ignored.
    #[command(after_help = "Example:\n  latchkey audit check-receipt reset.tlog-proof --key key.txt")]
    CheckReceipt {
        /// File with the receipt, or `-` for standard input.
        file: PathBuf,
        /// Public key of the trail, or a file with one key per line; may be repeated.
        #[arg(long = "key", value_name = "KEY|FILE", required = true)]
        keys: Vec<String>,
        /// Print the proven entry as JSON.
        #[arg(long)]
        json: bool,
    },
    /// Accept a database that is older than the last signed state, after a backup was put in place on
    /// purpose.
    ///
    /// Ends every session, records the rollback, and continues signing under a new name and with a new key,
    /// which must be given to everyone who verifies the trail: the missing entries stay evident to anyone who
    /// kept a checkpoint.
    #[command(after_help = "Example:\n  latchkey audit accept-rollback --replaced latchkey.db.broken --yes")]
    AcceptRollback {
        /// The newer database, if it still exists: makes the report of revived sessions and factors exact.
        #[arg(long, value_name = "FILE")]
        replaced: Option<PathBuf>,
        /// Accept it; without this flag, only report what is wrong.
        #[arg(long)]
        yes: bool,
        /// Print the result as JSON.
        #[arg(long)]
        json: bool,
    },
    /// Erase the personal data of a user from the trail: addresses, names, details. Proofs remain valid.
    ///
    /// For a request to be forgotten, best after the account was deleted. Which entries were erased is itself
    /// recorded. Backups and exports made earlier are not changed.
    #[command(
        after_help = "Example:\n  latchkey audit erase --org acme 770e8400-e29b-41d4-a716-446655440004 --yes"
    )]
    Erase {
        /// Slug of the organisation.
        #[arg(long, value_name = "SLUG")]
        org: String,
        /// Id of the user (UUID).
        user: Uuid,
        /// Confirm: erasure cannot be undone.
        #[arg(long)]
        yes: bool,
        /// Print the result as JSON.
        #[arg(long)]
        json: bool,
    },
    /// Replace the key that signs the trail; the old key vouches for the new one.
    ///
    /// Works while a server runs. Existing checkpoints, receipts and exports remain valid under the old key.
    /// Anyone who verifies with the old key is led to the new one only by the entry in which the old key
    /// vouches for it. What the old key signs later is not accepted. Its private half is deleted; a copy of
    /// the public half is kept.
    #[command(
        after_help = "Examples:\n  latchkey audit rotate-key\n  latchkey audit rotate-key --json > rotated.json"
    )]
    RotateKey {
        /// Print both keys, the entry and both checkpoints as JSON.
        #[arg(long)]
        json: bool,
    },
    /// Print the public keys that have signed the trail, the current one last.
    #[command(after_help = "Examples:\n  latchkey audit key > key.txt\n  latchkey audit key --json")]
    Key {
        /// Print them as JSON: the log's name, the key, and whether it is in use.
        #[arg(long)]
        json: bool,
    },
}

/// Format of an export.
#[derive(Clone, Copy, Debug, ValueEnum)]
pub enum FormatArg {
    /// One JSON object per line.
    Ndjson,
    /// CSV, with the JSON object in the last column.
    Csv,
}

impl AuditCommand {
    /// Runs the command.
    ///
    /// # Errors
    /// What failed; the checks also fail if they found something.
    pub fn run(self, global: &Global) -> Result<()> {
        match self {
            Self::Export {
                out,
                format,
                org,
                from,
                to,
            } => export::Order {
                out: out.as_deref(),
                format,
                org: org.as_deref(),
                from,
                to,
            }
            .run(global),
            Self::Verify {
                target,
                keys,
                checkpoints,
                allow_unsigned,
                json,
            } => verify::verify(&verify::Order {
                target: &target,
                keys: &keys,
                checkpoints: &checkpoints,
                allow_unsigned,
                as_json: json,
            }),
            Self::Checkpoint => print_told(global, TrailOrder::AuditCheckpoint),
            Self::Prove { id } => print_told(global, TrailOrder::AuditProve { id }),
            Self::CheckReceipt { file, keys, json } => check(&file, &keys, json),
            Self::AcceptRollback { replaced, yes, json } => {
                change::accept_rollback(global, replaced.as_deref(), yes, json)
            }
            Self::Erase { org, user, yes, json } => change::erase(global, &org, UserId(user), yes, json),
            Self::RotateKey { json } => change::rotate_key(global, json),
            Self::Key { json: false } => print_told(global, TrailOrder::AuditKeys),
            Self::Key { json: true } => keys_in_json(global),
        }
    }
}

/// Prints the text that an order returns.
fn print_told(global: &Global, order: TrailOrder) -> Result<()> {
    let told = orders::carry_out(global, order)?;
    print(told.as_str().context("the server's reply is invalid")?)
}

fn keys_in_json(global: &Global) -> Result<()> {
    let told = orders::carry_out(global, TrailOrder::AuditKeys)?;
    let lines: Vec<_> = told
        .as_str()
        .context("the server's reply is invalid")?
        .lines()
        .collect();
    let keys = lines.iter().enumerate().map(|(at, line)| {
        let key = LogKey::parse(line)?;
        Ok(json!({ "log": key.origin(), "key": line, "inUse": at + 1 == lines.len() }))
    });
    output::json(&keys.collect::<Result<Vec<_>>>()?)
}

/// Longest line, in bytes, longer than any line of an export: a file of one endless line must not fill the
/// memory.
const MAX_LINE: u64 = 16 * 1024 * 1024;

fn check(file: &Path, keys: &[String], as_json: bool) -> Result<()> {
    let keys = read_keys(keys)?;
    let mut text = String::new();
    open(file)?.take(MAX_LINE).read_to_string(&mut text)?;
    // A notice has text before its receipt.
    let receipt = text
        .find("c2sp.org/tlog-proof@")
        .map_or(text.as_str(), |at| &text[at..]);
    let checked = check_receipt(receipt, &keys).with_context(|| format!("{}", file.display()))?;
    let entry = serde_json::to_value(EntryLine::from(&checked.record))?;
    let size = checked.checkpoint.size;
    if as_json {
        return output::json(&json!({
            "verdict": "proven",
            "entry": entry,
            "log": checked.checkpoint.origin,
            "size": size,
        }));
    }
    output::quoted(format_args!(
        "proven: entry {} is among the first {size} of {}",
        checked.record.sequence, checked.checkpoint.origin
    ))?;
    output::json(&shown(&checked.record, &entry))
}

/// Returns the parts of an entry that are shown to people.
fn shown(record: &Record, entry: &serde_json::Value) -> serde_json::Value {
    let leaf = &entry["leaf"];
    json!({
        "id": leaf["id"],
        "at": leaf["at"],
        "eventType": leaf["eventType"],
        "result": leaf["result"],
        "actor": { "type": leaf["actor"]["type"], "id": leaf["actor"]["id"], "data": entry["actor"] },
        "resource": leaf["resource"],
        "subject": entry["subject"],
        "organizationId": record.organization_id,
    })
}

fn read_keys(given: &[String]) -> Result<LogKeys> {
    let mut keys = LogKeys::default();
    for given in given {
        let text = if Path::new(given).is_file() {
            std::fs::read_to_string(given).with_context(|| given.clone())?
        } else {
            given.clone()
        };
        for line in text.lines().map(str::trim).filter(|line| !line.is_empty()) {
            keys.add(LogKey::parse(line).map_err(|e| Refusal(e.to_string()))?);
        }
    }
    Ok(keys)
}

fn open(path: &Path) -> Result<Box<dyn io::BufRead>> {
    if path == Path::new("-") {
        return Ok(Box::new(BufReader::new(io::stdin())));
    }
    let file = File::open(path).with_context(|| format!("{}", path.display()))?;
    Ok(Box::new(BufReader::with_capacity(1 << 16, file)))
}

fn print(text: &str) -> Result<()> {
    Ok(io::stdout().lock().write_all(text.as_bytes())?)
}
