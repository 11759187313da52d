//! The live stream of the trail: server-sent events that a client can resume.

use std::borrow::Cow;
use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;

use futures_util::StreamExt as _;
use futures_util::stream::{self, BoxStream, Stream};
use poem::web::sse::Event as SseEvent;
use poem_openapi::payload::EventStream;
use poem_openapi::registry::{MetaSchemaRef, Registry};
use poem_openapi::types::{ToJSON, Type};
use serde_json::Value;

use super::AuditLogBody;
use crate::domain::account::Scope;
use crate::domain::audit::Entry;
use crate::service::api_keys::{self, Credential};
use crate::service::trail::TailPlace;
use crate::service::{Services, trail};

/// Interval at which a tail polls for new entries.
const PAUSE: Duration = Duration::from_millis(500);
/// Number of polls after which a tail ends; the client reconnects with `Last-Event-ID`. 15 minutes.
const LOOKS: u32 = 15 * 60 * 2;
/// Number of polls without an entry after which the client is sent its current position.
const IDLE_LOOKS: u32 = 30;

/// A tail in progress.
pub(super) struct Tail {
    pub services: Arc<Services>,
    pub credential: Credential,
    pub organization_name: String,
    pub next: u64,
    /// The position from which the client would resume with the last id that it was sent.
    pub known: u64,
    pub _place: TailPlace,
}

/// An event of a tail.
pub(super) enum Told {
    /// A new entry.
    Entry(Box<AuditLogBody>),
    /// Only the id to resume from. Clients do not deliver an event without data, but remember its id (HTML,
    /// 9.2.6 "dispatch the event").
    Place(u64),
}

struct State {
    tail: Tail,
    ready: VecDeque<Entry>,
    looks: u32,
    idle: u32,
}

/// Streams events until the right to read ends, the appliance stops, or 15 minutes have passed.
pub(super) fn events(tail: Tail) -> EventStream<BoxStream<'static, Told>> {
    EventStream::new(follow(tail).boxed())
        .keep_alive(Duration::from_secs(15))
        .to_event(|told: Told| match told {
            Told::Entry(entry) => SseEvent::message(entry.to_json_string())
                .id(entry.sequence.to_string())
                .event_type("entry"),
            Told::Place(last) => SseEvent::message("").id(last.to_string()),
        })
}

fn follow(tail: Tail) -> impl Stream<Item = Told> + Send + 'static {
    let state = State {
        tail,
        ready: VecDeque::new(),
        looks: 0,
        // Send the position first: if the connection ended before any entry, the client would reconnect without
        // an id and miss the entries written in between.
        idle: IDLE_LOOKS,
    };
    stream::unfold(state, |mut state| async move {
        loop {
            if let Some(entry) = state.ready.pop_front() {
                (state.tail.known, state.idle) = (entry.sequence + 1, 0);
                let body = AuditLogBody::new(entry, &state.tail.organization_name);
                return Some((Told::Entry(Box::new(body)), state));
            }
            if state.idle >= IDLE_LOOKS {
                state.idle = 0;
                if let Some(last) = state.untold() {
                    return Some((Told::Place(last), state));
                }
            }
            if !state.look().await? {
                state.idle += 1;
                state.pause().await?;
            }
        }
    })
}

impl State {
    /// Returns the last position read, if the client has not been sent it yet, and marks it as sent.
    fn untold(&mut self) -> Option<u64> {
        let next = self.tail.next;
        let last = next.checked_sub(1).filter(|_| next > self.tail.known)?;
        self.tail.known = next;
        Some(last)
    }

    /// Waits until the next poll; `None` when the appliance stops.
    async fn pause(&self) -> Option<()> {
        tokio::select! {
            () = self.tail.services.tails.ended() => None,
            () = tokio::time::sleep(PAUSE) => Some(()),
        }
    }

    /// Polls once. Returns whether more entries may be ready at once; `None` when the tail must end.
    async fn look(&mut self) -> Option<bool> {
        self.looks += 1;
        if self.looks > LOOKS {
            return None;
        }
        let tail = &mut self.tail;
        // The right to read may have been revoked since the last poll (ASVS 8.3.2).
        let now = tail.services.clock.now();
        let who = api_keys::authenticate(&tail.services, &tail.credential, now).ok()?;
        let organization = {
            let reading = who.reading(Scope::AuditRead).ok()?;
            tail.organization_name.clone_from(&reading.organization().name);
            reading.organization().id
        };
        let (services, from) = (Arc::clone(&tail.services), tail.next);
        let read = move || trail::entries_after(&services, organization, from);
        let (entries, next) = tokio::task::spawn_blocking(read).await.ok()?.ok()?;
        let more = next > tail.next;
        tail.next = next;
        self.ready = entries.into();
        Some(more)
    }
}

/// Documented as an entry, because the other variant has no data.
impl Type for Told {
    const IS_REQUIRED: bool = AuditLogBody::IS_REQUIRED;
    type RawValueType = Self;
    type RawElementValueType = Self;

    fn name() -> Cow<'static, str> {
        AuditLogBody::name()
    }

    fn schema_ref() -> MetaSchemaRef {
        AuditLogBody::schema_ref()
    }

    fn register(registry: &mut Registry) {
        AuditLogBody::register(registry);
    }

    fn as_raw_value(&self) -> Option<&Self::RawValueType> {
        Some(self)
    }

    fn raw_element_iter<'a>(&'a self) -> Box<dyn Iterator<Item = &'a Self::RawElementValueType> + 'a> {
        Box::new(std::iter::once(self))
    }
}

impl ToJSON for Told {
    fn to_json(&self) -> Option<Value> {
        match self {
            Self::Entry(entry) => entry.to_json(),
            Self::Place(_) => None,
        }
    }
}
