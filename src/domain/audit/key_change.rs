//! A change of the log's signing key, vouched for by the previous key.
//!
//! An entry alone would not suffice: anybody who can write the database can append one, and the log would sign
//! over it as over any other. So the entry carries a statement, signed by the old key, for this position and this
//! new key.

use serde_json::{Map, Value};

use super::checkpoint::{CheckpointError, LogKey, LogKeys, LogSigner};
use super::{ActorRef, Event, EventType};

/// The first line of a statement. It can't be mistaken for a checkpoint, whose second line is a number.
const STATEMENT: &str = "latchkey-audit-key-change/1";

/// A change of keys as an entry records it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct KeyChange {
    /// The previous key.
    pub from: LogKey,
    /// The new key.
    pub to: LogKey,
    /// The previous key's statement, a signed note; absent if the key was changed by hand.
    statement: Option<String>,
}

impl KeyChange {
    /// Creates the change from `old` to `to` by the entry at `place`, vouched for by the old key.
    #[must_use]
    pub fn by(old: &LogSigner, to: LogKey, place: u64) -> Self {
        let statement = old.sign(&statement(old.origin(), &to, place));
        Self {
            from: old.log_key(),
            to,
            statement: Some(statement),
        }
    }

    /// Creates the change for a key that was found replaced: nothing vouches for the new one.
    #[must_use]
    pub fn found(from: LogKey, to: LogKey) -> Self {
        Self {
            from,
            to,
            statement: None,
        }
    }

    /// Returns the audit event of the change.
    #[must_use]
    pub fn event(&self, actor: ActorRef) -> Event {
        let event = Event::new(EventType::AuditKeyChange, None, actor)
            .with("from", self.from.to_string())
            .with("to", self.to.to_string());
        match &self.statement {
            Some(statement) => event.with("vouchedFor", statement.clone()),
            None => event,
        }
    }

    /// Parses the details of an entry; `None` if they are not a change of keys of one log.
    #[must_use]
    pub fn read(details: &Map<String, Value>) -> Option<Self> {
        let text = |name: &str| details.get(name).and_then(Value::as_str);
        let from = LogKey::parse(text("from")?).ok()?;
        let to = LogKey::parse(text("to")?).ok()?;
        (from.origin() == to.origin() && from != to).then(|| Self {
            from,
            to,
            statement: text("vouchedFor").map(str::to_owned),
        })
    }

    /// Returns whether the previous key vouches for the change, for the entry at `place`; `None` if there is no
    /// statement.
    ///
    /// # Errors
    /// [`CheckpointError`] if the statement is forged or about something else.
    pub fn is_vouched_for(&self, place: u64) -> Option<Result<(), CheckpointError>> {
        let note = self.statement.as_deref()?;
        let expected = statement(self.from.origin(), &self.to, place);
        let old = LogKeys::new(vec![self.from.clone()]);
        Some(old.check_text(note, self.from.origin(), &expected))
    }
}

fn statement(origin: &str, to: &LogKey, place: u64) -> String {
    format!("{STATEMENT}\n{origin}\n{to}\nfrom entry {place} on\n")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn details(change: &KeyChange) -> Map<String, Value> {
        change.event(ActorRef::operator()).details
    }

    #[test]
    fn the_old_key_vouches_for_one_key_at_one_place() {
        let [old, new, other] = [1, 2, 3].map(|seed| LogSigner::new("h/audit-log", &[seed; 32]));
        let change = KeyChange::by(&old, new.log_key(), 7);
        let read = KeyChange::read(&details(&change)).expect("a change");
        assert_eq!(read, change);
        assert_eq!(read.is_vouched_for(7), Some(Ok(())));
        assert_eq!(read.is_vouched_for(8), Some(Err(CheckpointError::Forged)));
        // The statement of another change, of another key, and none.
        let mut elsewhere = details(&change);
        elsewhere.insert("to".into(), other.log_key().to_string().into());
        let read = KeyChange::read(&elsewhere).expect("a change");
        assert_eq!(read.is_vouched_for(7), Some(Err(CheckpointError::Forged)));
        let mut by_another = details(&KeyChange::by(&other, new.log_key(), 7));
        by_another.insert("from".into(), old.log_key().to_string().into());
        let read = KeyChange::read(&by_another).expect("a change");
        assert_eq!(read.is_vouched_for(7), Some(Err(CheckpointError::UnknownKey)));
        let found = KeyChange::found(old.log_key(), new.log_key());
        let read = KeyChange::read(&details(&found)).expect("a change");
        assert_eq!(read.is_vouched_for(7), None);
        // A checkpoint is not a statement.
        let mut checkpoint = details(&found);
        checkpoint.insert("vouchedFor".into(), old.checkpoint(7, [0; 32]).into());
        let read = KeyChange::read(&checkpoint).expect("a change");
        assert!(matches!(read.is_vouched_for(7), Some(Err(_))));
    }

    #[test]
    fn another_logs_key_is_no_change_of_this_ones() {
        let old = LogSigner::new("h/audit-log", &[1; 32]);
        let other = LogSigner::new("other/audit-log", &[2; 32]);
        let change = KeyChange::by(&old, other.log_key(), 7);
        assert_eq!(KeyChange::read(&details(&change)), None);
        assert_eq!(KeyChange::read(&Map::new()), None);
    }
}
