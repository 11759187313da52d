//! Tree roots and proofs, computed from the hashes stored with the entries in O(log n) look-ups.

use rusqlite::{Connection, OptionalExtension as _};
use tlog_tiles::{Hash, HashReader};

use super::{find_node, to_column};
use crate::domain::audit::tree::Node;
use crate::domain::audit::{Hash32, Record};
use crate::domain::{Error, Result};

/// Returns the number of entries in the trail, including pruned ones.
///
/// # Errors
/// [`Error::Internal`] when SQLite fails.
pub fn size(connection: &Connection) -> Result<u64> {
    Ok(connection
        .prepare_cached("SELECT coalesce(max(sequence), -1) + 1 FROM audit_entry")?
        .query_row([], |row| row.get(0).map(super::from_column))?)
}

/// Computes the root over the first `size` entries (RFC 6962 §2.1).
///
/// # Errors
/// [`Error::Internal`] when SQLite fails, or there are fewer entries.
pub fn root(connection: &Connection, size: u64) -> Result<Hash32> {
    let root = tlog_tiles::tree_hash(size, &Nodes(connection)).map_err(|e| no_proof(&e))?;
    Ok(root.0)
}

/// Proves that entry `sequence` is among the first `size` (RFC 6962 §2.1.1). Returns the hashes, the leaf's
/// sibling first.
///
/// # Errors
/// [`Error::Internal`] when SQLite fails, or the entry is not among them.
pub fn inclusion_proof(connection: &Connection, sequence: u64, size: u64) -> Result<Vec<Hash32>> {
    let proof = tlog_tiles::prove_record(size, sequence, &Nodes(connection)).map_err(|e| no_proof(&e))?;
    Ok(proof.into_iter().map(|hash| hash.0).collect())
}

/// Proves that the tree over the first `old` entries is a prefix of that over the first `size` (RFC 6962 §2.1.2).
///
/// # Errors
/// [`Error::Internal`] when SQLite fails, or there are fewer entries.
pub fn consistency_proof(connection: &Connection, old: u64, size: u64) -> Result<Vec<Hash32>> {
    if old == 0 {
        return Ok(Vec::new());
    }
    let proof = tlog_tiles::prove_tree(size, old, &Nodes(connection)).map_err(|e| no_proof(&e))?;
    Ok(proof.into_iter().map(|hash| hash.0).collect())
}

/// Finds the hashes of the complete subtrees that cover the entries `first..end`, left to right.
///
/// # Errors
/// [`Error::Internal`] when SQLite fails, or there are fewer entries.
pub fn cover(connection: &Connection, first: u64, end: u64) -> Result<Vec<Hash32>> {
    let mut at = first;
    crate::domain::audit::tree::subtrees(first, end)
        .map(|level| {
            let node = Node {
                level,
                index: at >> level,
            };
            at += 1 << level;
            find_node(connection, node)?.ok_or_else(|| lacks(node))
        })
        .collect()
}

/// Finds the complete record of an entry, pruned or not.
///
/// # Errors
/// [`Error::Internal`] when SQLite fails.
pub fn find_record(connection: &Connection, sequence: u64) -> Result<Option<Record>> {
    Ok(connection
        .prepare_cached(&format!(
            "SELECT {} FROM audit_entry WHERE sequence = ?1",
            super::row::RECORD_COLUMNS
        ))?
        .query_row([to_column(sequence)], super::row::record)
        .optional()?)
}

struct Nodes<'a>(&'a Connection);

impl HashReader for Nodes<'_> {
    fn read_hashes(&self, indexes: &[u64]) -> Result<Vec<Hash>, tlog_tiles::Error> {
        indexes
            .iter()
            .map(|index| {
                let (level, index) = tlog_tiles::split_stored_hash_index(*index);
                match find_node(self.0, Node { level, index }) {
                    Ok(Some(hash)) => Ok(Hash(hash)),
                    Ok(None) => Err(tlog_tiles::Error::IndexesNotInTree),
                    Err(error) => Err(tlog_tiles::Error::InvalidInput(format!("{error:?}"))),
                }
            })
            .collect()
    }
}

fn no_proof(error: &tlog_tiles::Error) -> Error {
    Error::Internal(format!("audit tree: {error}"))
}

fn lacks(node: Node) -> Error {
    Error::Internal(format!("audit entry {} lacks a hash of the tree", node.kept_by()))
}
