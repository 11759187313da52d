//! The whole app over real SQLite in a temporary folder, with a clock that tests set.
//!
//! Callers are values: `app.admin()`, `app.member()`, `app.admin_of_other_org()`, `app.anonymous()`.
//! Each answer to a reset must have its entry. When a [`TestApp`] is dropped, the trail must verify, and resets and
//! entries must match one to one.

mod callers;

use std::path::PathBuf;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, OnceLock};

use jiff::SignedDuration;
use latchkey::clock::Clock;
use latchkey::courier::{Courier, CourierConfig};
use latchkey::domain::account::{OrganizationId, OrganizationSettings, Role, User, UserId};
use latchkey::domain::audit::{ActorRef, Event, Filter};
use latchkey::domain::credential::ExternalIssuer;
use latchkey::domain::policy::{FactorKind, Grants, Mode};
use latchkey::domain::second_factor::{self, TotpSecret};
use latchkey::entropy::Entropy;
use latchkey::http::{self, HttpOptions};
use latchkey::keys::KeyRing;
use latchkey::limiter::{Limit, Limiter, Limits};
use latchkey::passkeys::{RelyingParty, Written};
use latchkey::plugin_host::{self, Digest, HostOptions, OnFailure, PluginHost};
use latchkey::service::administration::{self, NewOrganization, NewUser};
use latchkey::service::plugins::{self, Manager, NewBinding, NewPlugin};
use latchkey::service::{Services, Settings, session, trail};
use latchkey::store::{Store, audit, factors};
use poem::endpoint::{BoxEndpoint, EndpointExt as _};
use poem::test::TestClient;
use serde_json::{Value, json};

pub use callers::{Answer, Caller, reset_path};

pub const PASSWORD: &str = "correct horse battery staple";
pub const ADMIN: &str = "770e8400-e29b-41d4-a716-446655440003";
pub const DEVELOPER: &str = "770e8400-e29b-41d4-a716-446655440004";

/// Seeds: the plugin host is shared and counts by binding, so no two apps may have the same ids.
static APPS: AtomicU64 = AtomicU64::new(7);

/// The app under test.
pub struct TestApp {
    pub services: Arc<Services>,
    client: TestClient<BoxEndpoint<'static>>,
    pub acme: OrganizationId,
    pub globex: OrganizationId,
    pub admin: User,
    pub second_admin: User,
    pub developer: User,
    pub developer_totp: TotpSecret,
    pub member: User,
    pub other_admin: User,
    pub other_developer: User,
    _dir: tempfile::TempDir,
}

/// How an app differs from the ordinary one.
pub struct Setup {
    pub limits: Limits,
    pub settings: Settings,
    pub acme: OrganizationSettings,
    pub external_issuer: Option<ExternalIssuer>,
    pub courier: CourierConfig,
    /// Changes that may wait for the writer.
    pub queue_length: usize,
    /// The host of all tests unless one needs its own.
    pub plugin_host: Option<PluginHost>,
}

impl Default for Setup {
    fn default() -> Self {
        Self {
            limits: Limits::off(),
            settings: Settings::default(),
            acme: OrganizationSettings::default(),
            external_issuer: None,
            courier: CourierConfig::default(),
            queue_length: latchkey::store::QUEUE_LENGTH,
            plugin_host: None,
        }
    }
}

/// An app that differs in its limits alone.
impl From<Limits> for Setup {
    fn from(limits: Limits) -> Self {
        Self {
            limits,
            ..Self::default()
        }
    }
}

/// An app that differs in the operator's settings alone.
impl From<Settings> for Setup {
    fn from(settings: Settings) -> Self {
        Self {
            settings,
            ..Self::default()
        }
    }
}

/// An app that differs in acme's settings alone.
impl From<OrganizationSettings> for Setup {
    fn from(acme: OrganizationSettings) -> Self {
        Self {
            acme,
            ..Self::default()
        }
    }
}

/// So many requests in a minute.
pub fn per_minute(requests: u32) -> Limit {
    Limit {
        requests,
        window_secs: 60,
    }
}

impl TestApp {
    /// Two organisations (globex requires MFA), no rate limits, no plugins.
    pub async fn new() -> Self {
        Self::with(Setup::default()).await
    }

    /// [`TestApp::new`], but for what is said here: all of a [`Setup`], or the one thing that differs.
    pub async fn with(setup: impl Into<Setup>) -> Self {
        Self::build(setup.into()).await
    }

    async fn build(setup: Setup) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let clock = Clock::set_to("2026-02-18T10:30:00Z".parse().unwrap());
        let entropy = Entropy::seeded(APPS.fetch_add(1, Ordering::Relaxed));
        let options = latchkey::store::Options {
            queue_length: setup.queue_length,
            ..Default::default()
        };
        let services = Services {
            store: Store::open_with(dir.path(), options).unwrap(),
            plugin_host: setup.plugin_host.unwrap_or_else(plugin_host),
            courier: Courier::new(&setup.courier).unwrap(),
            limiter: Limiter::new(&setup.limits, &clock),
            keys: KeyRing::open(dir.path(), &entropy).unwrap(),
            hashing: latchkey::service::hashing::Hashing::new(2),
            probing: latchkey::service::health::Probing::default(),
            principals: Default::default(),
            in_flight: Default::default(),
            floods: Default::default(),
            strangers: Default::default(),
            sweep: Default::default(),
            bindings: Default::default(),
            passkeys: RelyingParty::read(&Written {
                id: "",
                origins: &[],
                public_url: &setup.settings.public_url,
                name: "Latchkey",
            })
            .unwrap(),
            counts: Default::default(),
            tails: Default::default(),
            witness: Default::default(),
            external_issuer: setup.external_issuer,
            settings: setup.settings,
            clock,
            entropy,
        };
        let services = Arc::new(services);
        let acme = organization(&services, "acme", setup.acme).await;
        let required = OrganizationSettings {
            mfa_required: true,
            ..Default::default()
        };
        let globex = organization(&services, "globex", required).await;
        let (admin, _) = user(&services, acme, ADMIN, "admin@acme.example", Role::OrgAdmin, true).await;
        let (developer, totp) =
            user(&services, acme, DEVELOPER, "dev@acme.example", Role::Member, true).await;
        let (second_admin, _) = user(
            &services,
            acme,
            id(5),
            "second@acme.example",
            Role::OrgAdmin,
            true,
        )
        .await;
        let (member, _) = user(&services, acme, id(6), "member@acme.example", Role::Member, false).await;
        let (other_admin, _) = user(
            &services,
            globex,
            id(7),
            "admin@globex.example",
            Role::OrgAdmin,
            true,
        )
        .await;
        let (other_developer, _) =
            user(&services, globex, id(8), "dev@globex.example", Role::Member, true).await;
        // Callers are where they say they are.
        let options = HttpOptions {
            client_address: Arc::new(|peer, forwarded| {
                forwarded.last().and_then(|ip| ip.parse().ok()).or(peer)
            }),
            ..HttpOptions::default()
        };
        let endpoint = http::endpoint(Arc::clone(&services), options);
        let client = TestClient::new(endpoint.map_to_response().boxed());
        Self {
            services,
            client,
            acme,
            globex,
            admin,
            second_admin,
            developer,
            developer_totp: totp.unwrap(),
            member,
            other_admin,
            other_developer,
            _dir: dir,
        }
    }

    /// A caller with a fresh token of that user's.
    pub async fn caller(&self, user: &User) -> Caller<'_> {
        let (services, id) = (Arc::clone(&self.services), user.id);
        let mint = move || session::mint_token(&services, id, SignedDuration::from_hours(12));
        let token = tokio::task::spawn_blocking(mint).await.unwrap().unwrap();
        Caller {
            app: self,
            token: Some(token),
        }
    }

    pub async fn admin(&self) -> Caller<'_> {
        self.caller(&self.admin).await
    }

    pub async fn member(&self) -> Caller<'_> {
        self.caller(&self.member).await
    }

    pub async fn admin_of_other_org(&self) -> Caller<'_> {
        self.caller(&self.other_admin).await
    }

    pub fn anonymous(&self) -> Caller<'_> {
        Caller {
            app: self,
            token: None,
        }
    }

    pub fn bearer(&self, token: &str) -> Caller<'_> {
        Caller {
            app: self,
            token: Some(token.to_owned()),
        }
    }

    pub fn advance(&self, by: SignedDuration) {
        self.services.clock.advance(by);
    }

    /// The code that the developer's authenticator shows now.
    pub fn developer_code(&self) -> String {
        self.developer_totp
            .code(second_factor::time_step(self.services.clock.now()))
    }

    /// Installs and binds a plugin of `fixtures/plugins` to acme, with every effect granted.
    pub async fn bind(&self, name: &str, config: Value) {
        let path = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join(format!("fixtures/plugins/{name}.wasm"));
        self.bind_module_with(std::fs::read(path).unwrap(), config, OnFailure::default())
            .await;
    }

    /// Installs a module for the node and binds it to acme, with every effect that it asks for granted.
    pub async fn bind_module(&self, module: Vec<u8>) {
        self.bind_module_with(module, json!({}), OnFailure::default())
            .await;
    }

    pub async fn bind_module_with(&self, module: Vec<u8>, config: Value, on_failure: OnFailure) {
        self.bind_for(Some(self.acme), module, config, on_failure).await;
    }

    /// Installs a module for the node and binds it for everybody.
    pub async fn bind_for_node(&self, module: Vec<u8>) {
        self.bind_for(None, module, json!({}), OnFailure::default()).await;
    }

    async fn bind_for(
        &self,
        owner: Option<OrganizationId>,
        module: Vec<u8>,
        config: Value,
        on_failure: OnFailure,
    ) {
        let operator = Manager::operator(&self.services);
        let new = NewPlugin {
            owner: None,
            bytes: module.into(),
            signature: None,
            public_key: None,
        };
        let installed = plugins::install_plugin(&self.services, &operator, new, plugins::unwatched())
            .await
            .unwrap();
        let binding = NewBinding {
            owner,
            plugin_digest: Digest(installed.plugin.digest),
            config,
            position: None,
            hooks: None,
            mode: Mode::Enforce,
            on_failure,
            grants: Grants::of(installed.plugin.manifest.wants),
            // A busy test machine must not look like a runaway.
            limits: plugin_host::Limits {
                deadline_ms: 1_000,
                ..plugin_host::Limits::default()
            },
        };
        plugins::bind_plugin(&self.services, &operator, binding)
            .await
            .unwrap();
    }

    /// Every entry of the trail, newest first.
    pub fn trail(&self) -> Vec<Value> {
        let mut entries: Vec<_> = [None, Some(self.acme), Some(self.globex)]
            .into_iter()
            .flat_map(|organization| {
                let page = |db: &_| {
                    audit::page_entries(
                        db,
                        organization,
                        &Filter::default(),
                        &audit::Counts::default(),
                        0,
                        10_000,
                    )
                };
                self.services.store.read(page).unwrap().content
            })
            .collect();
        entries.sort_by_key(|entry| std::cmp::Reverse(entry.sequence));
        entries
            .iter()
            .map(|entry| serde_json::to_value(&entry.event).unwrap())
            .collect()
    }

    /// The newest entry of the trail.
    pub fn last_entry(&self) -> Value {
        self.trail().remove(0)
    }

    /// The newest entry of that type.
    #[track_caller]
    pub fn last_entry_of(&self, event_type: &str) -> Value {
        let mut trail = self.trail().into_iter();
        trail
            .find(|entry| entry["eventType"] == event_type)
            .unwrap_or_else(|| panic!("no entry of type {event_type}"))
    }

    /// A further member of acme, with MFA.
    pub async fn employee(&self, name: &str) -> User {
        let new = NewUser {
            id: None,
            email: format!("{name}@acme.example"),
            name: None,
            role: Role::Member,
            password_hash: Some(password_hash()),
        };
        let actor = ActorRef::operator();
        let user = administration::create_user(&self.services, self.acme, new, actor, None)
            .await
            .unwrap();
        enrol(&self.services, user.id).await;
        user
    }

    /// Invariant 9: each outcome of an authenticated reset call is one entry. `repeated`: it may have been the
    /// repeat of an earlier one.
    #[track_caller]
    pub fn assert_recorded(&self, answer: &Answer, repeated: bool) {
        let request = answer.header("x-request-id").replace('-', "");
        let entries = self.count(&format!(
            "SELECT count(*) FROM audit_entry WHERE request_id = x'{request}'
             AND event_type IN ('USER_MFA_RESET', 'APPROVAL_REQUEST')"
        ));
        let expected = match answer.status.as_u16() {
            // Answered before anybody is authenticated; counted, and recorded once per caller and window.
            405 | 413 | 429 | 503 => 0..=0,
            // By authentication, unless the session ended only meanwhile.
            401 if answer.body["message"] != "A more recent authentication is required" => 0..=1,
            // What can't be recorded is one.
            500 if answer.body["message"] != "A policy could not be evaluated" => 0..=1,
            200 | 202 if repeated => 0..=1,
            _ => 1..=1,
        };
        assert!(
            expected.contains(&entries),
            "{entries} entries for an authenticated reset call (invariant 9): {answer:?}"
        );
    }

    /// Erases whoever it is from the trail.
    pub async fn erase(&self, user: &User) {
        let (organization, operator) = (user.organization_id, ActorRef::operator());
        trail::erase_user(&self.services, organization, user.id, operator, |_, _| {})
            .await
            .unwrap();
    }

    /// Changes what HTTP can't.
    pub async fn execute(&self, sql: &'static str) -> usize {
        let change = move |tx: &latchkey::store::Transaction<'_>| Ok(tx.execute(sql, [])?);
        self.services.store.write(change).await.unwrap()
    }

    /// A number.
    pub fn count(&self, sql: &str) -> i64 {
        self.services
            .store
            .read(|db| Ok(db.query_row(sql, [], |row| row.get(0))?))
            .unwrap()
    }
}

impl Drop for TestApp {
    fn drop(&mut self) {
        if std::thread::panicking() {
            return;
        }
        let report = self.services.store.read(audit::verify).unwrap();
        assert!(report.is_intact(), "the trail verifies: {report:?}");
        let done = self.count("SELECT count(*) FROM reset_call WHERE outcome = 'done'");
        let entries = self.count(
            "SELECT count(*) FROM audit_entry WHERE event_type = 'USER_MFA_RESET' AND result = 'SUCCESS'",
        );
        if report.pruned == 0 {
            assert_eq!(done, entries, "resets and entries match one to one (invariant 9)");
        } else {
            assert!(entries <= done, "no entry without its reset");
        }
    }
}

/// One host for all tests of this binary: its instance pool is address space, and compiled plugins are
/// shared.
fn plugin_host() -> PluginHost {
    static HOST: OnceLock<PluginHost> = OnceLock::new();
    HOST.get_or_init(|| PluginHost::new(HostOptions::default()).unwrap())
        .clone()
}

/// Hashed once for all users of all tests: it takes as long as the rest of a start.
pub fn password_hash() -> String {
    static HASH: OnceLock<String> = OnceLock::new();
    HASH.get_or_init(|| latchkey::domain::credential::hash_password(PASSWORD, *b"salt of the test"))
        .clone()
}

fn id(last: u8) -> &'static str {
    const IDS: [&str; 4] = [
        "770e8400-e29b-41d4-a716-446655440005",
        "770e8400-e29b-41d4-a716-446655440006",
        "770e8400-e29b-41d4-a716-446655440007",
        "770e8400-e29b-41d4-a716-446655440008",
    ];
    IDS[usize::from(last) - 5]
}

async fn organization(services: &Services, slug: &str, settings: OrganizationSettings) -> OrganizationId {
    let new = NewOrganization {
        id: None,
        slug: slug.into(),
        name: slug.to_uppercase(),
        settings,
    };
    administration::create_organization(services, new)
        .await
        .unwrap()
        .id
}

async fn user(
    services: &Services,
    organization: OrganizationId,
    id: &str,
    email: &str,
    role: Role,
    mfa: bool,
) -> (User, Option<TotpSecret>) {
    let new = NewUser {
        id: Some(id.parse().unwrap()),
        email: email.into(),
        name: Some(email.split('@').next().unwrap().to_owned()),
        role,
        password_hash: Some(password_hash()),
    };
    let user = administration::create_user(services, organization, new, ActorRef::operator(), None)
        .await
        .unwrap();
    if !mfa {
        return (user, None);
    }
    let secret = enrol(services, user.id).await;
    (user, Some(secret))
}

/// Gives a user a TOTP factor whose codes of the past are used up.
pub async fn enrol(services: &Services, user: UserId) -> TotpSecret {
    let secret = TotpSecret::new(services.entropy.bytes());
    let nonce = services.entropy.bytes();
    let sealed = services
        .keys
        .seal(user, FactorKind::Totp, secret.as_bytes(), nonce);
    let at = services.clock.now();
    let factor = services.entropy.uuid(at);
    services
        .store
        .write(move |tx| factors::insert_totp(tx, user, factor, &sealed, 0, at))
        .await
        .unwrap();
    secret
}

/// Appends an entry that nothing else wrote. Its number.
pub async fn append(services: &Services, event: Event) -> latchkey::domain::Result<u64> {
    let at = services.clock.now();
    let id = services.entropy.uuid(at);
    let appended = services
        .store
        .write(move |tx| audit::append_entry(tx, at, id, &event));
    Ok(appended.await?.sequence)
}

/// A change that is under way, and takes until it is told to go on: what others write waits in the queue, and
/// was judged by what was there before.
pub struct SlowDisk {
    go_on: std::sync::mpsc::Sender<()>,
    under_way: tokio::task::JoinHandle<latchkey::domain::Result<()>>,
}

impl SlowDisk {
    pub async fn new(app: &TestApp) -> Self {
        Self::writing(app, "").await
    }

    pub async fn writing(app: &TestApp, sql: &'static str) -> Self {
        let (go_on, held_up) = std::sync::mpsc::channel::<()>();
        let held_up = std::sync::Mutex::new(held_up);
        let (began, has_begun) = std::sync::mpsc::channel();
        let store = app.services.store.clone();
        let under_way = tokio::spawn(async move {
            let change = move |tx: &latchkey::store::Transaction<'_>| {
                tx.execute_batch(sql)?;
                let _ = began.send(());
                let _ = held_up.lock().unwrap().recv();
                Ok(())
            };
            store.write(change).await
        });
        tokio::task::spawn_blocking(move || has_begun.recv())
            .await
            .unwrap()
            .unwrap();
        Self { go_on, under_way }
    }

    pub async fn go_on(self) {
        drop(self.go_on);
        self.under_way.await.unwrap().unwrap();
    }

    /// Goes on once what was asked for meanwhile waits in the queue.
    pub async fn go_on_soon(self) {
        tokio::time::sleep(std::time::Duration::from_millis(300)).await;
        self.go_on().await;
    }
}
