//! A receipt: one entry and the proof that it is in the trail, in one self-contained text.
//!
//! It is a C2SP tlog-proof. Its `extra` line carries the entry, as base64 of JSON with the members `leaf`,
//! `actor`, `actorSalt`, `subject` and `subjectSalt` as in an export; the leaf hash is computed from these. Any
//! tlog-proof verifier can check the rest, given that hash.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;

use super::checkpoint::{Checkpoint, CheckpointError, LogKeys};
use super::export::EntryLine;
use super::leaf::Hash32;
use super::record::Record;

const HEADER: &str = "c2sp.org/tlog-proof@v1";

/// Why a receipt proves nothing.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ReceiptError {
    /// Not a receipt.
    #[error("it is not a receipt (C2SP tlog-proof with an entry): {0}")]
    Malformed(String),
    /// The checkpoint is not valid.
    #[error("its checkpoint does not count: {0}")]
    Checkpoint(#[from] CheckpointError),
    /// The proof is about another entry, or does not lead to the root.
    #[error("its entry is not in the trail: the entry or the proof was changed")]
    NotIncluded,
}

/// A receipt whose proof is valid.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CheckedReceipt {
    /// The entry.
    pub record: Record,
    /// The signed checkpoint of the trail that contains it.
    pub checkpoint: Checkpoint,
}

/// Formats a receipt.
#[must_use]
pub fn write_receipt(record: &Record, proof: &[Hash32], checkpoint: &str) -> String {
    let mut entry = EntryLine::from(record);
    // The proof suffices; the hashes beside the entry are for exports.
    entry.hashes.clear();
    let extra = serde_json::to_vec(&entry).expect("an entry can be written");
    let mut text = format!(
        "{HEADER}\nextra {}\nindex {}\n",
        STANDARD.encode(extra),
        record.sequence
    );
    for hash in proof {
        text.push_str(&STANDARD.encode(hash));
        text.push('\n');
    }
    text.push('\n');
    text.push_str(checkpoint);
    text
}

/// Parses a receipt and checks that a trusted key signed a trail that contains its entry.
///
/// # Errors
/// [`ReceiptError`].
pub fn check_receipt(text: &str, keys: &LogKeys) -> Result<CheckedReceipt, ReceiptError> {
    let malformed = |what: &str| ReceiptError::Malformed(what.to_owned());
    let (head, note) = text
        .split_once("\n\n")
        .ok_or_else(|| malformed("there is no checkpoint"))?;
    let mut lines = head.lines();
    if lines.next() != Some(HEADER) {
        return Err(malformed("it does not begin with c2sp.org/tlog-proof@v1"));
    }
    let extra = lines
        .next()
        .and_then(|line| line.strip_prefix("extra "))
        .ok_or_else(|| malformed("it carries no entry"))?;
    let index: u64 = lines
        .next()
        .and_then(|line| line.strip_prefix("index "))
        .and_then(|index| index.parse().ok())
        .ok_or_else(|| malformed("it has no index"))?;
    let proof = lines
        .map(|line| {
            let hash = STANDARD.decode(line).ok()?;
            Some(tlog_tiles::Hash(hash.try_into().ok()?))
        })
        .collect::<Option<Vec<_>>>()
        .ok_or_else(|| malformed("a line of the proof is not a hash"))?;
    let entry = STANDARD
        .decode(extra)
        .map_err(|_| malformed("the entry is not base64"))?;
    let entry: EntryLine =
        serde_json::from_slice(&entry).map_err(|e| ReceiptError::Malformed(format!("the entry: {e}")))?;
    let (record, seals_fit) = entry.into_record().map_err(ReceiptError::Malformed)?;
    let checkpoint = keys.open(note)?;
    let leaf = record
        .leaf_hash_at(index)
        .filter(|_| seals_fit && record.sequence == index && index < checkpoint.size)
        .ok_or(ReceiptError::NotIncluded)?;
    tlog_tiles::check_record(
        &proof,
        checkpoint.size,
        tlog_tiles::Hash(checkpoint.root),
        index,
        tlog_tiles::Hash(leaf),
    )
    .map_err(|_| ReceiptError::NotIncluded)?;
    Ok(CheckedReceipt { record, checkpoint })
}
