//! Fills a data directory: one organisation, admins with tokens, users with a second factor and a
//! session, two Rust plugins bound so that both hooks are on.

use std::fmt::Write as _;
use std::path::Path;

use jiff::{SignedDuration, Timestamp};
use latchkey::clock::Clock;
use latchkey::courier::{Courier, CourierConfig};
use latchkey::domain::account::{
    OrganizationId, OrganizationSettings, Role, Session, SessionId, SessionOrigin, SessionScope, User, UserId,
};
use latchkey::domain::audit::ActorRef;
use latchkey::domain::policy::{FactorKind, Grants, Mode};
use latchkey::entropy::Entropy;
use latchkey::keys::KeyRing;
use latchkey::limiter::{Limiter, Limits};
use latchkey::plugin_host::{Digest, HostOptions, Limits as CallLimits, OnFailure, PluginHost};
use latchkey::service::administration::{self, NewOrganization, NewUser};
use latchkey::service::plugins::{self, Manager, NewBinding, NewPlugin};
use latchkey::service::{Services, Settings, hashing::Hashing, health::Probing, session};
use latchkey::store::sessions::{self, SessionRow};
use latchkey::store::{Store, accounts, factors};
use tokio::runtime::Runtime;
use uuid::Uuid;

const ADMINS: usize = 64;

/// What was put there.
pub struct Seeded {
    /// Tokens of admins.
    pub admins: Vec<String>,
    /// Ids of users with a second factor.
    pub users: Vec<Uuid>,
}

pub fn seed(dir: &Path, users: usize) -> Seeded {
    let runtime = Runtime::new().expect("a runtime");
    let services = services(dir);
    let seeded = organization(&runtime, &services, "load", users);
    write_config(dir);
    seeded
}

/// An organisation with admins, users and policies.
pub fn organization(runtime: &Runtime, services: &Services, slug: &str, users: usize) -> Seeded {
    let new = NewOrganization {
        id: None,
        slug: slug.into(),
        name: slug.to_uppercase(),
        settings: OrganizationSettings::default(),
    };
    let created = runtime.block_on(administration::create_organization(services, new));
    let organization = created.expect("an organisation").id;
    let policies = [
        (
            "reset-budget",
            serde_json::json!({ "perUser": { "max": 100, "days": 30 } }),
        ),
        ("force-reenrollment", serde_json::json!({ "hours": 8 })),
    ];
    runtime.block_on(bind(services, organization, policies));
    let mut admins = Vec::new();
    for n in 0..ADMINS {
        let new = NewUser {
            id: None,
            email: format!("admin{n}@{slug}.example"),
            name: None,
            role: Role::OrgAdmin,
            password_hash: None,
        };
        let created = administration::create_user(services, organization, new, ActorRef::operator(), None);
        let user = runtime.block_on(created).expect("an admin").id;
        admins.push(session::mint_token(services, user, SignedDuration::from_hours(12)).expect("a token"));
    }
    Seeded {
        admins,
        users: insert_users(services, organization, users),
    }
}

/// Adds so many users who can be reset to the seeded organisation of a data directory that no server uses.
pub fn add_users(dir: &Path, seeded: &mut Seeded, users: usize) {
    let services = services(dir);
    let organization = services
        .store
        .read(|db| accounts::find_organization_by_slug(db, "load"))
        .expect("a read")
        .expect("it was seeded")
        .id;
    seeded.users.extend(insert_users(&services, organization, users));
}

fn insert_users(services: &Services, organization: OrganizationId, users: usize) -> Vec<Uuid> {
    let ids: Vec<Uuid> = (0..users)
        .map(|_| Uuid::from_bytes(services.entropy.bytes()))
        .collect();
    for chunk in ids.chunks(5_000) {
        insert(services, organization, chunk.to_vec());
    }
    ids
}

pub fn services(dir: &Path) -> Services {
    let (clock, entropy) = (Clock::system(), Entropy::system());
    let keys = KeyRing::open(dir, &entropy).expect("keys");
    let options = HostOptions {
        cache_dir: Some(dir.join("plugin-cache")),
        cache_key: keys.plugin_cache_key(),
        ..HostOptions::default()
    };
    Services {
        store: Store::open(dir).expect("a store"),
        plugin_host: PluginHost::new(options).expect("a plugin host"),
        courier: Courier::new(&CourierConfig::default()).expect("a courier"),
        limiter: Limiter::new(&Limits::off(), &clock),
        keys,
        principals: session::Principals::default(),
        hashing: Hashing::default(),
        probing: Probing::default(),
        in_flight: Default::default(),
        floods: Default::default(),
        strangers: Default::default(),
        sweep: Default::default(),
        bindings: Default::default(),
        passkeys: Default::default(),
        counts: Default::default(),
        tails: Default::default(),
        witness: Default::default(),
        external_issuer: None,
        settings: Settings::default(),
        clock,
        entropy,
    }
}

/// Installs these policies that ship, and binds them with these configurations.
pub async fn bind(
    services: &Services,
    organization: OrganizationId,
    policies: impl IntoIterator<Item = (&'static str, serde_json::Value)>,
) {
    for (name, config) in policies {
        let path = Path::new(env!("CARGO_MANIFEST_DIR")).join(format!("fixtures/plugins/{name}.wasm"));
        let module = std::fs::read(path).expect("a fixture");
        let operator = Manager::operator(services);
        let new = NewPlugin {
            owner: None,
            bytes: module.into(),
            signature: None,
            public_key: None,
        };
        let installed = plugins::install_plugin(services, &operator, new, plugins::unwatched())
            .await
            .expect("a plugin");
        let binding = NewBinding {
            owner: Some(organization),
            plugin_digest: Digest(installed.plugin.digest),
            config,
            position: None,
            hooks: None,
            mode: Mode::Enforce,
            on_failure: OnFailure::default(),
            grants: Grants::of(installed.plugin.manifest.wants),
            limits: CallLimits::default(),
        };
        plugins::bind_plugin(services, &operator, binding)
            .await
            .expect("a binding");
    }
}

pub fn insert(services: &Services, organization: OrganizationId, ids: Vec<Uuid>) {
    let at = services.clock.now();
    let rows: Vec<_> = ids
        .into_iter()
        .map(|id| {
            let secret: [u8; 20] = services.entropy.bytes();
            let sealed = services
                .keys
                .seal(UserId(id), FactorKind::Totp, &secret, services.entropy.bytes());
            (id, sealed, services.entropy.uuid(at), services.entropy.uuid(at))
        })
        .collect();
    services
        .store
        .write_blocking(move |tx| {
            for (id, sealed, factor, session) in &rows {
                accounts::insert_user(tx, &user(organization, *id, at), None)?;
                factors::insert_totp(tx, UserId(*id), *factor, sealed, 0, at)?;
                sessions::insert_session(tx, &session_row(UserId(*id), *session, at))?;
            }
            Ok(())
        })
        .expect("users are kept");
}

fn user(organization: OrganizationId, id: Uuid, at: Timestamp) -> User {
    let email = format!("{}@load.example", id.simple());
    User {
        mfa_enabled: true,
        ..User::new(
            UserId(id),
            organization,
            email,
            Some("A user".into()),
            Role::Member,
            at,
        )
    }
}

fn session_row(user_id: UserId, id: Uuid, at: Timestamp) -> SessionRow {
    SessionRow {
        session: Session {
            id: SessionId(id),
            user_id,
            scope: SessionScope::Full,
            authenticated_at: at,
            second_factor_at: Some(at),
            second_factor_kind: Some(FactorKind::Totp),
            origin: SessionOrigin::Login,
            created_at: at,
            expires_at: at + SignedDuration::from_hours(24),
        },
        generation: 0,
        ip: Some("192.0.2.7".into()),
        user_agent: Some("load".into()),
        last_used_at: at,
    }
}

/// No rate limits, as many connections as are asked for, no log line per request.
fn write_config(dir: &Path) {
    let mut text = String::from(
        "[log]\nlevel = \"warn\"\n[http]\nmax_connections = 4096\nmax_connections_per_address = 4096\n[limits]\n",
    );
    for (name, _) in Limits::default().entries() {
        writeln!(text, "{name} = {{ requests = 0, window_secs = 1 }}").expect("a string takes text");
    }
    std::fs::write(dir.join("latchkey.toml"), text).expect("the configuration is written");
}
