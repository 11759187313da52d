//! People and guards: users, invitations, approvals, who may act on whom.

mod api_keys;
mod approvals;
mod help_desk;
mod idempotency;
mod import;
mod invitations;
mod operator;
mod thief;
mod throttle;
mod users;
mod walk;

use latchkey::domain::account::{AdminOnAdmin, OrganizationSettings, Role, User};
use latchkey::domain::audit::ActorRef;
use latchkey::service::Settings;
use latchkey::service::administration::{NewUser, create_user};
use latchkey::service::notices::{Mail, read_mail};
use poem::http::Method;
use serde_json::{Value, json};

use crate::support::{self, Answer, Caller, TestApp};

/// Paths of verbs on a user.
pub fn user_path(user: &User) -> String {
    format!("/api/v1/users/{}", user.id)
}

/// Acme with a rule between admins.
pub async fn app_where(admin_on_admin: AdminOnAdmin) -> TestApp {
    TestApp::with(OrganizationSettings {
        admin_on_admin,
        ..Default::default()
    })
    .await
}

/// An appliance that can send mail.
pub async fn app_with_mail() -> TestApp {
    TestApp::with(Settings {
        mail: true,
        ..Default::default()
    })
    .await
}

impl TestApp {
    /// A further user of acme, with the usual password and no second factor.
    pub async fn further(&self, name: &str, role: Role) -> User {
        let new = NewUser {
            id: None,
            email: format!("{name}@acme.example"),
            name: Some(name.to_owned()),
            role,
            password_hash: Some(support::password_hash()),
        };
        create_user(&self.services, self.acme, new, ActorRef::operator(), None)
            .await
            .unwrap()
    }

    pub async fn log_in(&self, email: &str, password: &str) -> Answer {
        let slug = if email.contains("globex") {
            "globex"
        } else {
            "acme"
        };
        let body = json!({ "organizationSlug": slug, "email": email, "password": password });
        self.anonymous().post("/api/v1/auth/login", body).await
    }

    /// Every mail that is owed, oldest first.
    pub fn owed_mail(&self) -> Vec<Mail> {
        self.owed_payloads()
            .iter()
            .map(|payload| read_mail(&self.services.keys, payload).unwrap())
            .collect()
    }

    pub fn owed_payloads(&self) -> Vec<String> {
        self.services
            .store
            .read(|db| {
                let mut statement =
                    db.prepare("SELECT payload FROM delivery WHERE channel = 'mail' ORDER BY id")?;
                let rows = statement.query_map([], |row| row.get(0))?;
                Ok(rows.collect::<Result<_, _>>()?)
            })
            .unwrap()
    }

    /// How many entries of that type and result the trail has.
    pub fn entries(&self, event_type: &str, result: &str) -> usize {
        self.trail()
            .iter()
            .filter(|entry| entry["eventType"] == event_type && entry["result"] == result)
            .count()
    }
}

impl Caller<'_> {
    /// A POST without a body.
    pub async fn call(&self, path: &str) -> Answer {
        self.send(Method::POST, path, None, &[]).await
    }
}

impl Answer {
    #[track_caller]
    pub fn assert_status(&self, status: u16) -> &Value {
        assert_eq!(self.status.as_u16(), status, "{}", self.text);
        &self.body
    }
}

/// The token of a link to set a password.
pub fn token_of(text: &str) -> String {
    let (_, rest) = text.split_once("/invitation#").expect("a link");
    rest.split_whitespace().next().expect("a token").to_owned()
}
