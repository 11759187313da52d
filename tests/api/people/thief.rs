//! Somebody who knows every password and holds one account: they log in, set up, confirm, step up, report and ask in
//! any order, with whatever they were shown on the way, beside an honest administrator and honest users. No account
//! that is not below theirs ever opens to them for more than setting MFA up, and no secret of theirs becomes its
//! factor.

use std::collections::{BTreeMap, BTreeSet};

use jiff::SignedDuration;
use latchkey::domain::account::{AdminOnAdmin, OrganizationSettings, Role, SessionScope, User, UserId};
use latchkey::domain::policy::FactorKind;
use latchkey::domain::second_factor::{TotpSecret, time_step};
use latchkey::service::{Settings, session};
use latchkey::store::{accounts, factors};
use proptest::prelude::*;
use serde_json::{Value, json};

use crate::account::other_issuer::{ISSUER, external, sign};
use crate::support::{self, Answer, PASSWORD, Setup, TestApp};

/// One attempt, by chance: what, on whom, with which of the things that are there.
#[derive(Clone, Copy, Debug)]
struct Step {
    what: u8,
    on: usize,
    with: usize,
    and: usize,
}

const WHATS: u8 = 24;

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let step = (0..WHATS, any::<usize>(), any::<usize>(), any::<usize>());
    let step = step.prop_map(|(what, on, with, and)| Step { what, on, with, and });
    prop::collection::vec(step, 1..30)
}

struct World {
    app: TestApp,
    own: User,
    /// Everybody that the thief tries it on.
    everybody: Vec<UserId>,
    /// Who must never open to them.
    above: BTreeSet<UserId>,
    // What the thief was shown, the oldest first.
    tokens: Vec<String>,
    refresh: Vec<String>,
    challenges: Vec<String>,
    secrets: Vec<String>,
    codes: Vec<String>,
    recovery: Vec<String>,
    links: Vec<String>,
    /// The codes that the honest administrator handed over, in person.
    handed: BTreeMap<UserId, String>,
    /// Whose account the thief was in, for more than setting MFA up.
    been_in: BTreeSet<UserId>,
}

/// One of them; the latest are the likeliest to open something.
fn pick<T: Clone>(things: &[T], which: usize) -> Option<T> {
    let from_the_end = which
        % things
            .len()
            .max(1)
            .min(if which.is_multiple_of(3) { 40 } else { 3 });
    things.iter().rev().nth(from_the_end).cloned()
}

impl World {
    async fn begin(start: Role, rule: AdminOnAdmin) -> Self {
        let app = TestApp::with(Setup {
            settings: Settings {
                mail: true,
                ..Default::default()
            },
            acme: OrganizationSettings {
                mfa_required: true,
                enrolment_code_required: true,
                enrolment_code_minutes: 60,
                help_desk_enabled: true,
                admin_on_admin: rule,
                ..Default::default()
            },
            external_issuer: external().external_issuer,
            ..Default::default()
        })
        .await;
        let desk = app.further("desk", Role::HelpDesk).await;
        let own = app.further("thief", start).await;
        for user in [&desk, &app.member] {
            support::enrol(&app.services, user.id).await;
        }
        let secret = support::enrol(&app.services, own.id).await;
        let others = [
            &app.admin,
            &app.second_admin,
            &app.developer,
            &app.member,
            &desk,
            &app.other_admin,
            &app.other_developer,
        ];
        let above = others.iter().filter(|other| {
            let below = other.role < start || (start == Role::OrgAdmin && rule == AdminOnAdmin::Allowed);
            other.organization_id != app.acme || !below
        });
        let mut world = Self {
            above: above.map(|user| user.id).collect(),
            everybody: others.iter().map(|user| user.id).chain([own.id]).collect(),
            tokens: Vec::new(),
            refresh: Vec::new(),
            challenges: Vec::new(),
            secrets: vec![secret.base32().to_string()],
            codes: Vec::new(),
            recovery: Vec::new(),
            links: Vec::new(),
            handed: BTreeMap::new(),
            been_in: BTreeSet::new(),
            app,
            own,
        };
        world.log_in(world.own.id).await;
        world.verify(0, 0).await;
        assert_eq!(world.tokens.len(), 1, "the thief's own account opens");
        world
    }

    fn find(&self, id: UserId) -> Option<User> {
        let found = self
            .app
            .services
            .store
            .read(|db| accounts::find_user_anywhere(db, id));
        found.expect("the store reads")
    }

    async fn post(&self, path: &str, token: Option<&str>, body: Value) -> Answer {
        let caller = match token {
            Some(token) => self.app.bearer(token),
            None => self.app.anonymous(),
        };
        let body = (!body.is_null()).then_some(body);
        caller
            .send(poem::http::Method::POST, &format!("/api/v1{path}"), body, &[])
            .await
    }

    /// What an authenticator with that secret shows, once more than thirty seconds after the last code.
    fn code_of(&self, secret: &str) -> String {
        self.app.advance(SignedDuration::from_secs(31));
        let bytes = data_encoding::BASE32_NOPAD.decode(secret.as_bytes());
        let secret = TotpSecret::from_bytes(&bytes.expect("base 32")).expect("20 bytes");
        secret.code(time_step(self.app.services.clock.now()))
    }

    /// Keeps whatever opens something of an answer to the thief.
    fn keep(&mut self, answer: &Answer) {
        let text = |field: &str| answer.body[field].as_str().map(str::to_owned);
        self.tokens.extend(text("accessToken"));
        self.refresh.extend(text("refreshToken"));
        self.challenges.extend(text("mfaChallengeToken"));
        self.codes.extend(text("enrolmentCode"));
        self.secrets.extend(text("secret"));
        let fresh = answer.body["recoveryCodes"].as_array().into_iter().flatten();
        self.recovery
            .extend(fresh.filter_map(Value::as_str).map(str::to_owned));
    }

    async fn log_in(&mut self, on: UserId) {
        let Some(user) = self.find(on) else { return };
        let answer = self.app.log_in(&user.email, PASSWORD).await;
        self.keep(&answer);
    }

    async fn verify(&mut self, challenge: usize, with: usize) {
        let Some(challenge) = pick(&self.challenges, challenge) else {
            return;
        };
        let code = match pick(&self.recovery, with / 2) {
            Some(code) if with % 2 == 1 => code,
            _ => match pick(&self.secrets, with / 2) {
                Some(secret) => self.code_of(&secret),
                None => return,
            },
        };
        let body = json!({ "mfaChallengeToken": challenge, "code": code });
        let answer = self.post("/auth/verify-mfa", None, body).await;
        self.keep(&answer);
    }

    async fn confirm(&mut self, token: &str, secret: &str, code: Option<String>) {
        let body = json!({ "secret": secret, "code": self.code_of(secret), "enrolmentCode": code });
        let answer = self.post("/mfa/setup/confirm", Some(token), body).await;
        self.keep(&answer);
    }

    /// Everything that a password alone opens, with every code that the thief was given, and without one.
    async fn take_over(&mut self, on: UserId) {
        let before = self.tokens.len();
        self.log_in(on).await;
        let Some(token) = self.tokens.get(before).cloned() else {
            return;
        };
        let answer = self.post("/mfa/setup", Some(&token), Value::Null).await;
        self.keep(&answer);
        let Some(secret) = answer.body["secret"].as_str() else {
            return;
        };
        for code in [None]
            .into_iter()
            .chain(self.codes.clone().into_iter().rev().take(3).map(Some))
        {
            self.confirm(&token, secret, code).await;
        }
    }

    /// The honest user sets MFA up, or doesn't get to it.
    async fn honest_set_up(&mut self, on: UserId) {
        let Some(user) = self.find(on) else { return };
        let login = self.app.log_in(&user.email, PASSWORD).await;
        let Some(token) = login.body["accessToken"].as_str() else {
            return;
        };
        let shown = self.post("/mfa/setup", Some(token), Value::Null).await;
        let Some(secret) = shown.body["secret"].as_str() else {
            return;
        };
        let code = self.handed.get(&on);
        let body = json!({ "secret": secret, "code": self.code_of(secret), "enrolmentCode": code });
        self.post("/mfa/setup/confirm", Some(token), body).await;
    }

    fn hand_over(&mut self, to: UserId, answer: &Answer) {
        if let Some(code) = answer.body["enrolmentCode"].as_str() {
            self.handed.insert(to, code.to_owned());
        }
    }

    /// An open approval; whoever may read the list.
    async fn open_approval(&self, token: &str, which: usize) -> Option<Value> {
        let list = self.app.bearer(token).get("/api/v1/approvals?state=open").await;
        pick(list.body.as_array().map_or(&[], Vec::as_slice), which)
    }

    /// A token of the other issuer: the thief's own, who is more over there; or one that they made themselves.
    fn external_token(&self, on: UserId, forged: bool) -> Option<String> {
        let email = self.find(if forged { on } else { self.own.id })?.email;
        let now = self.app.services.clock.now().as_second();
        let token = sign(&json!({
            "iss": ISSUER, "aud": "latchkey", "sub": email, "iat": now, "exp": now + 3600, "auth_time": now,
            "tenant": "acme", "email": email, "roles": ["it"], "amr": ["pwd", "otp"],
        }));
        if !forged {
            return Some(token);
        }
        // With the signature of another one of the thief's.
        let other = self.external_token(on, false)?;
        let (said, _) = token.rsplit_once('.')?;
        Some(format!("{said}.{}", other.rsplit_once('.')?.1))
    }

    /// The link in the thief's newest notice, or the same in another user's name.
    fn not_me(&self, on: UserId, forged: bool) -> Option<String> {
        let mails = self.app.owed_mail();
        let mut own = mails.iter().rev().filter(|mail| mail.to == self.own.email);
        let link = own.find_map(|mail| mail.body.split_once("/not-me#"))?.1;
        let token = link.split_whitespace().next()?;
        if !forged {
            return Some(token.to_owned());
        }
        let mut bytes = data_encoding::BASE64URL_NOPAD
            .decode(token.strip_prefix("lko_")?.as_bytes())
            .ok()?;
        bytes[..16].copy_from_slice(on.0.as_bytes());
        Some(format!("lko_{}", data_encoding::BASE64URL_NOPAD.encode(&bytes)))
    }

    async fn take(&mut self, step: Step) {
        let on = self.everybody[step.on % self.everybody.len()];
        let user = format!("/users/{on}");
        let token = pick(&self.tokens, step.with).unwrap_or_default();
        let token = token.as_str();
        match step.what {
            0 => self.log_in(on).await,
            1 => self.verify(step.with, step.and).await,
            2 => {
                let answer = self.post("/mfa/setup", Some(token), Value::Null).await;
                self.keep(&answer);
            }
            3 => {
                let Some(secret) = pick(&self.secrets, step.and) else {
                    return;
                };
                let code = pick(&self.codes, step.on);
                self.confirm(token, &secret, code).await;
            }
            4 | 5 => self.take_over(on).await,
            6 | 7 => {
                let answer = self
                    .post(&format!("{user}/reset-mfa"), Some(token), Value::Null)
                    .await;
                let own = self.whose(token) == Some(on);
                assert!(
                    !(own && answer.status == 200),
                    "a reset of oneself: {}",
                    answer.text
                );
                self.keep(&answer);
            }
            8 => {
                let path = format!("/api/v1{user}");
                let answer = self
                    .app
                    .bearer(token)
                    .patch(&path, json!({ "locked": false }))
                    .await;
                self.keep(&answer);
            }
            9 => {
                self.post(&format!("{user}/restore-factors"), Some(token), Value::Null)
                    .await;
            }
            10 => {
                let role = ["ORG_ADMIN", "MEMBER"][step.and % 2];
                let path = format!("/api/v1{user}");
                self.app.bearer(token).patch(&path, json!({ "role": role })).await;
            }
            11 => {
                let answer = self
                    .post(&format!("{user}/reset-password"), Some(token), Value::Null)
                    .await;
                assert!(answer.body["invitationLink"].is_null(), "it is mailed");
            }
            12 => {
                let Some(refresh) = pick(&self.refresh, step.and) else {
                    return;
                };
                let answer = self
                    .post("/auth/refresh", None, json!({ "refreshToken": refresh }))
                    .await;
                self.keep(&answer);
            }
            13 => {
                let Some(secret) = pick(&self.secrets, step.and) else {
                    return;
                };
                let body = json!({ "code": self.code_of(&secret) });
                let path = ["/auth/step-up", "/mfa/disable"][step.on % 2];
                let answer = self.post(path, Some(token), body).await;
                self.keep(&answer);
            }
            14 => {
                let answer = self
                    .post("/mfa/recovery-codes/regenerate", Some(token), Value::Null)
                    .await;
                self.keep(&answer);
            }
            15 => self
                .tokens
                .extend(self.external_token(on, step.and.is_multiple_of(2))),
            16 => self.links.extend(self.not_me(on, false)),
            17 => {
                let forged = step.and.is_multiple_of(2);
                let link = if forged {
                    self.not_me(on, true)
                } else {
                    pick(&self.links, step.with)
                };
                let Some(link) = link else { return };
                let answer = self.post("/auth/not-me", None, json!({ "token": link })).await;
                assert!(
                    !(forged && on != self.own.id && answer.status == 200),
                    "a forged link"
                );
            }
            18 => {
                let Some(approval) = self.open_approval(token, step.and).await else {
                    return;
                };
                let id = approval["id"].as_str().unwrap_or_default();
                let answer = self
                    .post(&format!("/approvals/{id}/approve"), Some(token), Value::Null)
                    .await;
                self.keep(&answer);
            }
            19 => {
                let minutes = [1, 11, 61, 25 * 60][step.and % 4];
                self.app.advance(SignedDuration::from_mins(minutes));
            }
            _ => self.be_honest(step, on).await,
        }
    }

    /// What others do meanwhile. The administrator believes whoever asks, and hands codes to their users alone.
    async fn be_honest(&mut self, step: Step, on: UserId) {
        if self
            .find(self.app.second_admin.id)
            .is_none_or(|admin| !admin.active || admin.locked.is_some())
        {
            return;
        }
        let path = format!("/api/v1/users/{on}");
        match step.what {
            20 => {
                let answer = self.app.caller(&self.app.second_admin).await.reset(on).await;
                self.hand_over(on, &answer);
            }
            21 => {
                let admin = self.app.caller(&self.app.second_admin).await;
                let answer = admin.patch(&path, json!({ "locked": false })).await;
                self.hand_over(on, &answer);
            }
            22 => {
                let admin = self.app.caller(&self.app.second_admin).await;
                let list = admin.get("/api/v1/approvals?state=open").await;
                let open = list.body.as_array().cloned().unwrap_or_default();
                // To new administrators they do not agree: two thieves may ask and agree.
                let wanted: Vec<_> = open
                    .into_iter()
                    .filter(|approval| approval["verb"] != "update-user")
                    .collect();
                let Some(approval) = pick(&wanted, step.with) else {
                    return;
                };
                let id = approval["id"].as_str().unwrap_or_default();
                let answer = admin.call(&format!("/api/v1/approvals/{id}/approve")).await;
                if let Some(target) = approval["target"]["id"].as_str().and_then(|id| id.parse().ok()) {
                    self.hand_over(UserId(target), &answer);
                }
            }
            _ if on != self.own.id => self.honest_set_up(on).await,
            _ => {}
        }
    }

    fn whose(&self, token: &str) -> Option<UserId> {
        let now = self.app.services.clock.now();
        let caller = session::authenticate(&self.app.services, Some(token), now).ok()?;
        Some(caller.user.id)
    }

    /// The invariant.
    fn check(&mut self, after: Step) {
        let services = &self.app.services;
        let now = services.clock.now();
        for token in &self.tokens {
            let Ok(caller) = session::authenticate(services, Some(token), now) else {
                continue;
            };
            if caller.session.scope == SessionScope::Full {
                let user = &caller.user;
                assert!(!self.above.contains(&user.id), "{after:?} opened {user:?}");
                self.been_in.insert(user.id);
            }
        }
        for id in &self.above {
            let sealed = services.store.read(|db| factors::find_totp(db, *id));
            let Some(factor) = sealed.expect("the store reads") else {
                continue;
            };
            let secret = services.keys.unseal(*id, FactorKind::Totp, &factor.sealed);
            let secret = data_encoding::BASE32_NOPAD.encode(&secret.expect("its keys"));
            assert!(
                !self.secrets.contains(&secret),
                "{after:?} gave {id} the thief's factor"
            );
        }
    }
}

fn walk(start: Role, rule: AdminOnAdmin, steps: &[Step]) -> World {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .expect("a runtime");
    runtime.block_on(async {
        let mut world = World::begin(start, rule).await;
        for step in steps {
            world.take(*step).await;
            world.check(*step);
        }
        world
    })
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 12, max_shrink_iters: 200, ..ProptestConfig::default() })]

    #[test]
    fn no_password_code_link_or_token_opens_an_account_that_is_not_below(
        steps in steps(), start in 0usize..4, rule in 0usize..3,
    ) {
        let start = [Role::Member, Role::HelpDesk, Role::OrgAdmin, Role::OrgAdmin][start];
        let rule = [AdminOnAdmin::Allowed, AdminOnAdmin::SecondAdmin, AdminOnAdmin::Refused][rule];
        walk(start, rule, &steps);
    }
}

/// The thief does get somewhere: into what is below, by a reset of their own and its code.
#[test]
fn a_thief_gets_into_what_is_below_and_nowhere_else() {
    // 0: the own token; everybody: admin, second admin, developer, member, desk, two of globex, the thief.
    let at = |what, on| Step {
        what,
        on,
        with: 0,
        and: 0,
    };
    let everything: Vec<_> = (0..8).flat_map(|on| [at(6, on), at(20, on), at(4, on)]).collect();
    let member = walk(Role::Member, AdminOnAdmin::Allowed, &everything);
    assert_eq!(member.been_in, BTreeSet::from([member.own.id]));
    let resets = [at(6, 2), at(4, 2)];
    for (start, rule) in [
        (Role::HelpDesk, AdminOnAdmin::Allowed),
        (Role::OrgAdmin, AdminOnAdmin::Refused),
    ] {
        let thief = walk(start, rule, &resets);
        assert_eq!(
            thief.been_in,
            BTreeSet::from([thief.own.id, thief.app.developer.id])
        );
    }
    let admins = [at(6, 0), at(4, 0)];
    let thief = walk(Role::OrgAdmin, AdminOnAdmin::Allowed, &admins);
    assert!(thief.been_in.contains(&thief.app.admin.id));
    for rule in [AdminOnAdmin::SecondAdmin, AdminOnAdmin::Refused] {
        // Asked for, agreed to by the honest one, and the code is in the user's hands alone.
        let story = [at(6, 0), at(22, 0), at(4, 0), at(23, 0), at(4, 0)];
        let thief = walk(Role::OrgAdmin, rule, &story);
        assert_eq!(thief.been_in, BTreeSet::from([thief.own.id]));
        let admin = thief.find(thief.app.admin.id).expect("still there");
        assert!(admin.mfa_enabled, "set up by its user, or never reset");
    }
}
