//! What the load needs beyond the seed that it shares with the crash tests: a long trail, a login.

use std::path::Path;
use std::time::Instant;

use jiff::SignedDuration;
use latchkey::domain::account::{OrganizationId, Role};
use latchkey::domain::audit::{ActorRef, ActorType, Event, EventType, Resource};
use latchkey::domain::credential::hash_password;
use latchkey::service::Services;
use latchkey::service::administration::{self, NewUser};
use latchkey::store::{accounts, audit};
use serde_json::json;
use uuid::Uuid;

use super::seed;

/// Somebody with a password and no second factor.
pub const PERSON: &str = "person@load.example";
pub const PASSWORD: &str = "correct horse battery staple";

pub fn add_person(dir: &Path) {
    let services = seed::services(dir);
    let person = NewUser {
        id: None,
        email: PERSON.into(),
        name: None,
        role: Role::Member,
        password_hash: Some(hash_password(PASSWORD, services.entropy.bytes())),
    };
    let organization = organization(&services);
    let created = administration::create_user(&services, organization, person, ActorRef::operator(), None);
    let runtime = tokio::runtime::Runtime::new().expect("a runtime");
    runtime.block_on(created).expect("a person");
}

fn organization(services: &Services) -> OrganizationId {
    services
        .store
        .read(|db| accounts::find_organization_by_slug(db, "load"))
        .expect("a read")
        .expect("it was seeded")
        .id
}

const AT_ONCE: u64 = 10_000;
/// Over how long the entries are spread, up to now.
const YEARS: i64 = 3;
/// Users whom they are about.
const PEOPLE: u64 = 100_000;

/// Lengthens the trail by the entries of busy years: four in five are the seeded organisation's, most are
/// logins, one in five is a reset.
pub fn grow(dir: &Path, entries: u64) {
    let services = seed::services(dir);
    let ours = organization(&services);
    let now = services.clock.now();
    let step = YEARS * 365 * 24 * 3_600_000 / i64::try_from(entries.max(1)).expect("fewer than 2^63 entries");
    let began = Instant::now();
    for first in (0..entries).step_by(usize::try_from(AT_ONCE).expect("a small number")) {
        let chunk: Vec<_> = (first..entries.min(first + AT_ONCE))
            .map(|n| {
                let before = i64::try_from(entries - n).expect("fewer than 2^63 entries") * step;
                let at = now - SignedDuration::from_millis(before);
                (at, services.entropy.uuid(at), event(ours, n))
            })
            .collect();
        services
            .store
            .write_blocking(move |tx| {
                for (at, id, event) in &chunk {
                    audit::append_entry(tx, *at, *id, event)?;
                }
                Ok(())
            })
            .expect("entries are kept");
        if first % 1_000_000 == 0 && first > 0 {
            println!("{first} entries after {:.0?}", began.elapsed());
        }
    }
}

fn event(ours: OrganizationId, n: u64) -> Event {
    let organization = match n % 5 {
        4 => OrganizationId(Uuid::from_u128(0x550e_8400 + u128::from(n % 7))),
        _ => ours,
    };
    // Spread over the users, whatever the rest is about.
    let user = n.wrapping_mul(0x9E37_79B9_7F4A_7C15) % PEOPLE;
    let (user_id, user_email) = (
        Uuid::from_u128(u128::from(user)),
        format!("user{user}@load.example"),
    );
    let admin = ActorRef {
        r#type: ActorType::User,
        id: Some(Uuid::from_u128(u128::from(PEOPLE + n % 64))),
        email: Some(format!("admin{}@load.example", n % 64)),
    };
    let own = ActorRef {
        r#type: ActorType::User,
        id: Some(user_id),
        email: Some(user_email.clone()),
    };
    let on = |event_type, actor| {
        Event::new(event_type, Some(organization), actor)
            .on(Resource::other("USER", user_id, Some(user_email.clone())))
            .from_request(
                "01a2b3c4-0000-7000-8000-000000000000",
                Some([192, 0, 2, 17].into()),
            )
    };
    match n % 10 {
        0 | 3 => on(EventType::UserMfaReset, admin)
            .with("reason", "lost phone, called from desk 17")
            .with("ticket", format!("HD-{n}"))
            .with("sessionsEnded", 2)
            .with("removed", json!(["totp", "recovery-codes"])),
        6 => on(EventType::UserMfaEnabled, own).with("kind", "totp"),
        8 => on(EventType::UserUpdate, admin).with("changed", json!(["name"])),
        _ => on(EventType::UserLogin, own).with("sessionId", user_id.to_string()),
    }
}
