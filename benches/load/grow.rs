//! What the load needs beyond the seed that it shares with the crash tests: a long trail, a login.

use std::path::Path;

use latchkey::domain::account::{OrganizationId, Role};
use latchkey::domain::audit::{ActorRef, Event, EventType};
use latchkey::domain::credential::hash_password;
use latchkey::service::Services;
use latchkey::service::administration::{self, NewUser};
use latchkey::store::{accounts, audit};
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

/// Lengthens the trail by entries of logins, as busy years do.
pub fn grow(dir: &Path, entries: u64) {
    let services = seed::services(dir);
    let organization = organization(&services);
    for chunk in 0..entries.div_ceil(AT_ONCE) {
        let at = services.clock.now();
        let count = AT_ONCE.min(entries - chunk * AT_ONCE);
        let ids: Vec<Uuid> = (0..count).map(|_| services.entropy.uuid(at)).collect();
        let event = Event::new(EventType::UserLogin, Some(organization), ActorRef::operator())
            .from_request("01a2b3c4-0000-7000-8000-000000000000", Some("192.0.2.17"))
            .with("sessionId", chunk);
        services
            .store
            .write_blocking(move |tx| {
                for &id in &ids {
                    audit::append(tx, at, id, &event)?;
                }
                Ok(())
            })
            .expect("entries are kept");
    }
}
