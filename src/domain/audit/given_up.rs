//! Logs whose checkpoints no longer count, because an older database was put in place on purpose.
//!
//! As with a change of keys, an entry alone would not suffice: anybody who can write the database can append one,
//! and the log would sign over it as over any other. So the entry carries a statement for this position and these
//! names, signed with the key of the log that follows, which nobody had before.

use serde_json::{Map, Value};

use super::Event;
use super::checkpoint::{CheckpointError, LogKey, LogKeys, LogSigner};

/// The first line of a statement. It can't be mistaken for a checkpoint, whose second line is a number.
const STATEMENT: &str = "latchkey-audit-given-up/1";

/// Logs that were given up, as an entry records them.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LogsGivenUp {
    /// Names of the logs; the one with the newest checkpoint comes first.
    pub origins: Vec<String>,
    /// Key of the log that follows.
    pub by: LogKey,
    /// Statement of the log that follows, a signed note.
    statement: String,
}

impl LogsGivenUp {
    /// Creates the statement for the entry at `place`, signed by the log that follows.
    #[must_use]
    pub fn by(follows: &LogSigner, origins: Vec<String>, place: u64) -> Self {
        let statement = follows.sign(&statement(follows.origin(), &origins, place));
        Self {
            origins,
            by: follows.log_key(),
            statement,
        }
    }

    /// Returns the audit event with the logs and the statement added.
    #[must_use]
    pub fn record(&self, event: Event) -> Event {
        let (first, also) = self.origins.split_first().unzip();
        let event = event
            .with("abandonedOrigin", first.cloned())
            .with("newKey", self.by.to_string())
            .with("vouchedFor", self.statement.clone());
        match also {
            Some(also) if !also.is_empty() => event.with("alsoAbandoned", also.to_vec()),
            _ => event,
        }
    }

    /// Parses the details of an entry; `None` if they have no statement of a log that follows.
    #[must_use]
    pub fn read(details: &Map<String, Value>) -> Option<Self> {
        let text = |name: &str| details.get(name).and_then(Value::as_str);
        let first = text("abandonedOrigin")?;
        let also = details.get("alsoAbandoned").and_then(Value::as_array);
        let also = also.into_iter().flatten().filter_map(Value::as_str);
        Some(Self {
            origins: std::iter::once(first).chain(also).map(str::to_owned).collect(),
            by: LogKey::parse(text("newKey")?).ok()?,
            statement: text("vouchedFor")?.to_owned(),
        })
    }

    /// Checks that the log that follows signed the statement, for the entry at `place`. Whether the key of that
    /// log is trusted is for the caller to decide.
    ///
    /// # Errors
    /// [`CheckpointError`] if the statement is forged or about something else.
    pub fn check(&self, place: u64) -> Result<(), CheckpointError> {
        let expected = statement(self.by.origin(), &self.origins, place);
        let follows = LogKeys::new(vec![self.by.clone()]);
        follows.check_text(&self.statement, self.by.origin(), &expected)
    }
}

fn statement(follows: &str, origins: &[String], place: u64) -> String {
    format!(
        "{STATEMENT}\n{follows}\nfrom entry {place} on\n{}\n",
        origins.join("\n")
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::domain::audit::{ActorRef, EventType};

    fn details(given_up: &LogsGivenUp) -> Map<String, Value> {
        let event = Event::new(EventType::AuditRollbackAccept, None, ActorRef::operator());
        given_up.record(event).details
    }

    #[test]
    fn the_log_that_follows_gives_up_these_names_at_one_place() {
        let [follows, other] = [1, 2].map(|seed| LogSigner::new("h/audit-log/2", &[seed; 32]));
        for names in [&["h/audit-log"][..], &["h/audit-log", "h/audit-log/2-0a"]] {
            let names: Vec<_> = names.iter().map(|name| (*name).to_owned()).collect();
            let given_up = LogsGivenUp::by(&follows, names.clone(), 7);
            let read = LogsGivenUp::read(&details(&given_up)).expect("they are given up");
            assert_eq!(read, given_up);
            assert_eq!(read.origins, names);
            assert_eq!(read.check(7), Ok(()));
            assert_eq!(read.check(8), Err(CheckpointError::Forged));
        }
        // One more name, another key, a checkpoint instead of a statement, and no statement.
        let honest = details(&LogsGivenUp::by(&follows, vec!["h/audit-log".to_owned()], 7));
        let changed = |name: &str, value: Value| {
            let mut details = honest.clone();
            details.insert(name.to_owned(), value);
            LogsGivenUp::read(&details).map(|read| read.check(7))
        };
        let more = changed("alsoAbandoned", vec!["h/audit-log/2"].into());
        assert_eq!(more, Some(Err(CheckpointError::Forged)));
        let by_another = changed("newKey", other.log_key().to_string().into());
        assert_eq!(by_another, Some(Err(CheckpointError::UnknownKey)));
        let checkpoint = changed("vouchedFor", follows.checkpoint(7, [0; 32]).into());
        assert!(matches!(checkpoint, Some(Err(_))));
        assert_eq!(changed("vouchedFor", Value::Null), None);
    }
}
