//! The digest by which an entry commits to the questions and answers of policies, which are stored beside it and
//! deleted earlier.

use sha2::{Digest as _, Sha256};

use super::leaf::Hash32;

/// Returns the SHA-256 over the question, the outcome (if absent: a length of 2⁶⁴−1 and no bytes), and the
/// columns of each call in order; each preceded by its length in 8 bytes, big-endian.
#[must_use]
pub fn asked_digest<'a>(
    question: &str,
    outcome: Option<&str>,
    calls: impl IntoIterator<Item = [&'a [u8]; 4]>,
) -> Hash32 {
    let mut digest = Sha256::new();
    add(&mut digest, question.as_bytes());
    match outcome {
        Some(outcome) => add(&mut digest, outcome.as_bytes()),
        None => digest.update(u64::MAX.to_be_bytes()),
    }
    for column in calls.into_iter().flatten() {
        add(&mut digest, column);
    }
    digest.finalize().into()
}

fn add(digest: &mut Sha256, bytes: &[u8]) {
    digest.update((bytes.len() as u64).to_be_bytes());
    digest.update(bytes);
}
