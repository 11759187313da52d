//! [`TestApp`] as its users see it: passwords, codes and the tokens they lead to.

use std::ops::Deref;

use jiff::SignedDuration;
use latchkey::clock::Clock;
use latchkey::domain::account::{OrganizationId, OrganizationSettings, Role, User, UserId};
use latchkey::domain::second_factor::{TotpSecret, time_step};
use latchkey::service::{Settings, enrolment, session};
use latchkey::store::accounts;
use poem::http::Method;
use serde_json::{Value, json};

use crate::support::{Setup, TestApp};

pub use crate::support::PASSWORD;

/// The secret of RFC 6238's test vectors.
pub const SECRET: &str = "GEZDGNBVGY3TQOJQGEZDGNBVGY3TQOJQ";

/// [`TestApp`] with three more users of acme: `boss` (admin, no MFA), `phone` (MFA on, with [`SECRET`])
/// and `new` (no MFA).
pub struct App {
    app: TestApp,
    pub clock: Clock,
}

impl Deref for App {
    type Target = TestApp;

    fn deref(&self) -> &TestApp {
        &self.app
    }
}

/// What came back.
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

/// Acme where everybody needs a second factor.
pub fn mfa_required() -> OrganizationSettings {
    OrganizationSettings {
        mfa_required: true,
        ..OrganizationSettings::default()
    }
}

impl App {
    pub async fn new() -> Self {
        Self::with(Setup::default()).await
    }

    /// Where mails are owed to whoever they concern.
    pub async fn with_mail() -> Self {
        let settings = Settings {
            mail: true,
            ..Settings::default()
        };
        Self::with(settings).await
    }

    pub async fn with(setup: impl Into<Setup>) -> Self {
        let app = TestApp::with(setup).await;
        let clock = app.services.clock.clone();
        let app = Self { app, clock };
        app.further("boss", Role::OrgAdmin).await;
        let phone = app.further("phone", Role::Member).await;
        enrolment::import_totp(&app.services, &phone, SECRET)
            .await
            .expect("enrolled");
        app.further("new", Role::Member).await;
        app
    }

    /// A token from the command line, where a login would ask for more.
    pub async fn minted(&self, user: UserId) -> String {
        let services = self.services.clone();
        let mint = move || session::mint_token(&services, user, SignedDuration::from_hours(12));
        tokio::task::spawn_blocking(mint)
            .await
            .expect("joined")
            .expect("minted")
    }

    /// A token of the admin `boss`, who gets in even where MFA is required.
    pub async fn boss(&self) -> String {
        self.minted(self.id("boss@acme.example")).await
    }

    pub fn find(&self, email: &str) -> User {
        self.services
            .store
            .read(|db| accounts::find_user_by_email(db, self.organization_of(email), email))
            .expect("read")
            .expect("user")
    }

    fn organization_of(&self, email: &str) -> OrganizationId {
        if email.ends_with("@globex.example") {
            self.globex
        } else {
            self.acme
        }
    }

    pub fn id(&self, email: &str) -> UserId {
        self.find(email).id
    }

    pub async fn call(&self, method: Method, path: &str, token: Option<&str>, body: Option<Value>) -> Answer {
        let caller = match token {
            Some(token) => self.bearer(token),
            None => self.anonymous(),
        };
        let answer = caller.send(method, &format!("/api/v1{path}"), body, &[]).await;
        if answer.status.as_u16() >= 400 {
            answer.assert_envelope();
        }
        Answer {
            status: answer.status.as_u16(),
            body: answer.body,
            headers: answer.headers,
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

    pub async fn refresh(&self, refresh_token: &str) -> Answer {
        let body = json!({ "refreshToken": refresh_token });
        self.post("/auth/refresh", None, body).await
    }

    /// The secret of a set-up that is begun with it.
    pub async fn set_up(&self, token: &str) -> String {
        let shown = self.post("/mfa/setup", Some(token), Value::Null).await;
        shown.ok().text("secret")
    }

    /// Confirms a set-up with the code that an authenticator app with that secret shows now.
    pub async fn confirm(&self, token: &str, secret: &str) -> Answer {
        let body = json!({ "secret": secret, "code": self.code(secret) });
        self.post("/mfa/setup/confirm", Some(token), body).await
    }

    /// The same where an admin's code is demanded.
    pub async fn confirm_with(&self, token: &str, secret: &str, enrolment_code: &str) -> Answer {
        let code = self.code(secret);
        let body = json!({ "secret": secret, "code": code, "enrolmentCode": enrolment_code });
        self.post("/mfa/setup/confirm", Some(token), body).await
    }

    /// Set up and confirmed: the secret and the recovery codes.
    pub async fn enrol(&self, token: &str) -> (String, Vec<String>) {
        let secret = self.set_up(token).await;
        let answer = self.confirm(token, &secret).await.ok();
        let codes = answer.body["recoveryCodes"].as_array().expect("codes").iter();
        let codes = codes.map(|code| code.as_str().expect("text").to_owned());
        (secret, codes.collect())
    }

    pub async fn reset_of(&self, admin_token: &str, email: &str) -> Answer {
        let path = format!("/users/{}/reset-mfa", self.id(email));
        self.post(&path, Some(admin_token), Value::Null).await
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

    /// Acme's trail from its beginning: event type, result, reason.
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
        let mut entries = self.app.trail();
        entries.reverse();
        entries
    }

    /// The newest entry: event type, result, reason.
    pub fn newest(&self) -> (String, String, Option<String>) {
        self.trail().pop().expect("an entry")
    }
}

pub fn entry(event: &str, result: &str, reason: Option<&str>) -> (String, String, Option<String>) {
    (event.into(), result.into(), reason.map(Into::into))
}
