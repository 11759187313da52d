//! The whole app over a temporary data directory, with a clock that tests move.

use std::sync::{Arc, LazyLock};

use jiff::{SignedDuration, Timestamp};
use latchkey::clock::Clock;
use latchkey::domain::account::{OrganizationSettings, Role, User, UserId};
use latchkey::domain::audit::ActorRef;
use latchkey::domain::credential::hash_password;
use latchkey::domain::second_factor::{TotpSecret, time_step};
use latchkey::entropy::Entropy;
use latchkey::http::{HttpOptions, endpoint};
use latchkey::keys::KeyRing;
use latchkey::limiter::{Limiter, Limits};
use latchkey::plugin_host::{HostOptions, PluginHost};
use latchkey::service::administration::{NewOrganization, NewUser, create_organization, create_user};
use latchkey::service::plugins::Bindings;
use latchkey::service::reset::{Floods, InFlight};
use latchkey::service::{Services, Settings, enrolment};
use latchkey::store::Store;
use poem::endpoint::{BoxEndpoint, EndpointExt as _};
use poem::http::Method;
use poem::test::TestClient;
use serde_json::{Value, json};
use tempfile::TempDir;

pub const PASSWORD: &str = "correct horse battery staple";
/// The secret of RFC 6238's test vectors.
pub const SECRET: &str = "GEZDGNBVGY3TQOJQGEZDGNBVGY3TQOJQ";

/// Hashed once for all users of all tests: it takes as long as the rest of a start.
static PASSWORD_HASH: LazyLock<String> = LazyLock::new(|| hash_password(PASSWORD, [7; 16]));

pub struct App {
    pub services: Arc<Services>,
    pub clock: Clock,
    client: TestClient<BoxEndpoint<'static>>,
    _dir: TempDir,
}

pub struct Answer {
    pub status: u16,
    pub body: Value,
    pub headers: poem::http::HeaderMap,
}

impl Answer {
    pub fn text(&self, name: &str) -> String {
        self.body[name]
            .as_str()
            .unwrap_or_else(|| panic!("{name} in {}", self.body))
            .to_owned()
    }

    #[track_caller]
    pub fn ok(self) -> Self {
        assert_eq!(self.status, 200, "{}", self.body);
        self
    }

    #[track_caller]
    pub fn refused(&self, status: u16, message: &str) {
        assert_eq!(
            (self.status, self.body["message"].as_str()),
            (status, Some(message)),
            "{}",
            self.body
        );
    }
}

/// How an app differs from the usual one.
#[derive(Default)]
pub struct Plan {
    pub settings: Settings,
    pub organization: OrganizationSettings,
    pub limits: Option<Limits>,
}

impl App {
    pub async fn new() -> Self {
        Self::with(Plan::default()).await
    }

    /// Organisation `acme` with `admin@acme.example` (admin), `dev@acme.example` (MFA on) and
    /// `new@acme.example` (none), and `other` with `admin@other.example`.
    pub async fn with(plan: Plan) -> Self {
        let dir = tempfile::tempdir().expect("temporary directory");
        let clock = Clock::set_to(Timestamp::from_second(1_790_000_000).expect("a time"));
        let entropy = Entropy::seeded(1);
        let services = Arc::new(Services {
            store: Store::open(dir.path()).expect("store"),
            plugin_host: PluginHost::new(HostOptions::default()).expect("plugin host"),
            limiter: Limiter::new(&plan.limits.unwrap_or_else(Limits::off), &clock),
            keys: KeyRing::open(dir.path(), &entropy).expect("keys"),
            clock: clock.clone(),
            entropy,
            settings: plan.settings,
            hashing: latchkey::service::hashing::Hashing::default(),
            in_flight: InFlight::default(),
            floods: Floods::default(),
            bindings: Bindings::default(),
        });
        let client = TestClient::new(endpoint(Arc::clone(&services), HttpOptions::default()).boxed());
        let app = Self {
            services,
            clock,
            client,
            _dir: dir,
        };
        app.organization("acme", plan.organization).await;
        app.organization("other", OrganizationSettings::default()).await;
        app.user("acme", "admin", Role::OrgAdmin).await;
        let dev = app.user("acme", "dev", Role::Member).await;
        enrolment::import_totp(&app.services, &dev, SECRET)
            .await
            .expect("enrolled");
        app.user("acme", "new", Role::Member).await;
        app.user("other", "admin", Role::OrgAdmin).await;
        app
    }

    async fn organization(&self, slug: &str, settings: OrganizationSettings) {
        let new = NewOrganization {
            id: None,
            slug: slug.into(),
            name: slug.to_uppercase(),
            settings,
        };
        create_organization(&self.services, new)
            .await
            .expect("organisation");
    }

    pub async fn user(&self, slug: &str, name: &str, role: Role) -> User {
        let organization = self
            .services
            .store
            .read(|db| latchkey::store::accounts::find_organization_by_slug(db, slug));
        let new = NewUser {
            id: None,
            email: format!("{name}@{slug}.example"),
            name: Some(name.into()),
            role,
            password_hash: Some(PASSWORD_HASH.clone()),
        };
        let organization = organization.expect("read").expect("organisation").id;
        create_user(&self.services, organization, new, ActorRef::operator(), None)
            .await
            .expect("user")
    }

    pub fn find(&self, email: &str) -> User {
        let slug = email
            .split_once('@')
            .expect("address")
            .1
            .split_once('.')
            .expect("domain")
            .0;
        self.services
            .store
            .read(|db| {
                let organization = latchkey::store::accounts::find_organization_by_slug(db, slug)?;
                let organization = organization.expect("organisation").id;
                latchkey::store::accounts::find_user_by_email(db, organization, email)
            })
            .expect("read")
            .expect("user")
    }

    pub fn id(&self, email: &str) -> UserId {
        self.find(email).id
    }

    pub async fn call(&self, method: Method, path: &str, token: Option<&str>, body: Option<Value>) -> Answer {
        let mut request = self.client.request(method, format!("/api/v1{path}"));
        if let Some(token) = token {
            request = request.header("Authorization", format!("Bearer {token}"));
        }
        if let Some(body) = body {
            request = request.body_json(&body);
        }
        let response = request.send().await.0;
        let (parts, body) = response.into_parts();
        let bytes = body.into_bytes().await.expect("body");
        let body = if bytes.is_empty() {
            Value::Null
        } else {
            serde_json::from_slice(&bytes).expect("every body is JSON")
        };
        Answer {
            status: parts.status.as_u16(),
            body,
            headers: parts.headers,
        }
    }

    pub async fn post(&self, path: &str, token: Option<&str>, body: Value) -> Answer {
        let body = (!body.is_null()).then_some(body);
        self.call(Method::POST, path, token, body).await
    }

    pub async fn login_as(&self, email: &str, password: &str) -> Answer {
        let slug = email
            .split_once('@')
            .expect("address")
            .1
            .split_once('.')
            .expect("domain")
            .0;
        let body = json!({"organizationSlug": slug, "email": email, "password": password});
        self.post("/auth/login", None, body).await
    }

    pub async fn login(&self, email: &str) -> Answer {
        self.login_as(email, PASSWORD).await
    }

    /// The access token of a login that asks for no second factor.
    pub async fn token(&self, email: &str) -> String {
        self.login(email).await.ok().text("accessToken")
    }

    pub async fn challenge(&self, email: &str) -> String {
        self.login(email).await.ok().text("mfaChallengeToken")
    }

    pub async fn verify(&self, challenge: &str, code: &str) -> Answer {
        self.post(
            "/auth/verify-mfa",
            None,
            json!({"mfaChallengeToken": challenge, "code": code}),
        )
        .await
    }

    /// The tokens of a complete login with [`SECRET`]'s code.
    pub async fn log_in_with_code(&self, email: &str) -> Answer {
        let challenge = self.challenge(email).await;
        self.verify(&challenge, &self.code(SECRET)).await.ok()
    }

    /// The code that an authenticator app shows now.
    pub fn code(&self, secret: &str) -> String {
        let bytes = data_encoding::BASE32_NOPAD
            .decode(secret.as_bytes())
            .expect("base 32");
        TotpSecret::from_bytes(&bytes)
            .expect("20 bytes")
            .code(time_step(self.clock.now()))
    }

    pub async fn reset(&self, admin_token: &str, email: &str) -> Answer {
        self.post(
            &format!("/users/{}/reset-mfa", self.id(email)),
            Some(admin_token),
            Value::Null,
        )
        .await
    }

    pub fn wait(&self, secs: i64) {
        self.clock.advance(SignedDuration::from_secs(secs));
    }

    /// Runs SQL behind the app's back.
    pub fn sql(&self, sql: &str) {
        let path = self.services.store.path().to_owned();
        let db = rusqlite::Connection::open(path).expect("database");
        db.busy_timeout(std::time::Duration::from_secs(5))
            .expect("timeout");
        db.execute_batch(sql).expect("statement");
    }

    /// The trail from its beginning: event type, result, reason.
    pub fn trail(&self) -> Vec<(String, String, Option<String>)> {
        self.entries()
            .into_iter()
            .map(|event| {
                let reason = event["details"]["reason"].as_str().map(str::to_owned);
                let text = |name: &str| event[name].as_str().expect("text").to_owned();
                (text("eventType"), text("result"), reason)
            })
            .collect()
    }

    pub fn entries(&self) -> Vec<Value> {
        let filter = latchkey::domain::audit::Filter {
            event_type: None,
            actor_email: None,
            from: None,
            to: None,
        };
        let mut entries = self
            .services
            .store
            .read(|db| {
                let acme = latchkey::store::accounts::find_organization_by_slug(db, "acme")?;
                let acme = acme.map(|organization| organization.id);
                latchkey::store::audit::page_entries(db, acme, &filter, 0, 1000)
            })
            .expect("read")
            .content;
        entries.sort_by_key(|entry| entry.sequence);
        entries
            .into_iter()
            .map(|entry| serde_json::to_value(entry.event).expect("JSON"))
            .collect()
    }

    /// The newest entry: event type, result, reason.
    pub fn newest(&self) -> (String, String, Option<String>) {
        self.trail().pop().expect("an entry")
    }
}

pub fn entry(event: &str, result: &str, reason: Option<&str>) -> (String, String, Option<String>) {
    (event.into(), result.into(), reason.map(Into::into))
}
