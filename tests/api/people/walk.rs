//! Somebody who holds one account tries every verb on everybody, in any order, and uses every account
//! they get hold of on the way. Whatever they do, they get no hold of anybody above them; nor of another
//! admin, where the organisation does not let one admin act on another.

use std::collections::BTreeMap;

use latchkey::domain::account::{AdminOnAdmin, OrganizationSettings, Role, UserId};
use latchkey::store::accounts;
use poem::http::Method;
use proptest::prelude::*;
use serde_json::{Value, json};
use uuid::Uuid;

use crate::support::{Caller, TestApp};

/// What holds an account: whatever changes here, changed who can get in or what they may do.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Hold {
    organization: Uuid,
    role: String,
    active: bool,
    locked: bool,
    password: Option<String>,
    factors: i64,
}

/// One attempt, by chance: which of the accounts that are held, what, on whom, how.
#[derive(Clone, Debug)]
struct Step {
    by: usize,
    verb: u8,
    on: usize,
    how: u8,
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let step = (any::<usize>(), 0u8..16, any::<usize>(), any::<u8>()).prop_map(|(by, verb, on, how)| Step {
        by,
        verb,
        on,
        how,
    });
    prop::collection::vec(step, 1..40)
}

/// The walker's world.
struct Walk {
    app: TestApp,
    /// Accounts that the walker can use, in the order in which they got them.
    held: Vec<UserId>,
    rule: AdminOnAdmin,
    /// Steps that changed something, by verb: a walk that is refused everything proves nothing.
    done: BTreeMap<&'static str, u32>,
}

impl Walk {
    async fn begin(start: Role, rule: AdminOnAdmin, help_desk_enabled: bool) -> Self {
        let app = TestApp::with(OrganizationSettings {
            admin_on_admin: rule,
            help_desk_enabled,
            ..Default::default()
        })
        .await;
        app.further("desk", Role::HelpDesk).await;
        let first = app.further("walker", start).await;
        Self {
            held: vec![first.id],
            app,
            rule,
            done: BTreeMap::new(),
        }
    }

    fn holds(&self) -> BTreeMap<UserId, Hold> {
        let read = |db: &latchkey::store::Connection| {
            let sql = "SELECT id, organization_id, role, active, locked_at IS NOT NULL, password_hash, \
                       (SELECT count(*) FROM factor f WHERE f.user_id = user.id AND f.suspended_at IS NULL) \
                       FROM user";
            let mut statement = db.prepare(sql)?;
            let rows = statement.query_map([], |row| {
                let id: [u8; 16] = row.get(0)?;
                let organization: [u8; 16] = row.get(1)?;
                let hold = Hold {
                    organization: Uuid::from_bytes(organization),
                    role: row.get(2)?,
                    active: row.get(3)?,
                    locked: row.get(4)?,
                    password: row.get(5)?,
                    factors: row.get(6)?,
                };
                Ok((UserId(Uuid::from_bytes(id)), hold))
            })?;
            Ok(rows.collect::<Result<_, _>>()?)
        };
        self.app.services.store.read(read).expect("the store reads")
    }

    async fn caller(&self, id: UserId) -> Option<(Role, Caller<'_>)> {
        let found = self
            .app
            .services
            .store
            .read(|db| accounts::find_user_anywhere(db, id));
        let user = found.expect("the store reads")?;
        if !user.active || user.locked.is_some() {
            return None;
        }
        Some((user.role, self.app.caller(&user).await))
    }

    /// Takes a step, and checks that it gave the walker no hold that the rules deny.
    async fn take(&mut self, step: &Step) {
        let Some(&by) = self.held.get(step.by % self.held.len().max(1)) else {
            return; // deleted themselves
        };
        let Some((role, caller)) = self.caller(by).await else {
            return;
        };
        let before = self.holds();
        let ids: Vec<_> = before.keys().copied().collect();
        let on = ids[step.on % ids.len()];
        let (verb, gained) = attempt(&caller, step, on).await;
        let after = self.holds();
        self.check(role, &before, &after, step);
        if before != after {
            *self.done.entry(verb).or_default() += 1;
        }
        self.held.extend(gained.filter(|id| !self.held.contains(id)));
        self.held.retain(|id| after.contains_key(id));
    }

    fn check(
        &self,
        role: Role,
        before: &BTreeMap<UserId, Hold>,
        after: &BTreeMap<UserId, Hold>,
        step: &Step,
    ) {
        for (id, was) in before {
            let is = after.get(id);
            if is == Some(was) {
                continue;
            }
            let target = rank(&was.role);
            let place = format!("{step:?} as {role:?} on {was:?}: {is:?}");
            assert_eq!(
                was.organization, self.app.acme.0,
                "another organisation's user: {place}"
            );
            assert!(target <= role, "somebody above: {place}");
            match role {
                Role::Member => panic!("a member changed somebody: {place}"),
                Role::HelpDesk => {
                    let reset = Hold {
                        factors: 0,
                        ..was.clone()
                    };
                    assert!(
                        target == Role::Member && is == Some(&reset),
                        "more than a reset: {place}"
                    );
                }
                Role::OrgAdmin | Role::Operator => {}
            }
            let other_admin = target == Role::OrgAdmin && !self.held.contains(id);
            if other_admin && self.rule != AdminOnAdmin::Allowed {
                let still = is.unwrap_or_else(|| panic!("another admin was deleted: {place}"));
                let same =
                    (&still.role, &still.password, still.factors) == (&was.role, &was.password, was.factors);
                assert!(same, "a hold of another admin: {place}");
                assert!(!still.active || was.active, "another admin is back: {place}");
            }
        }
        for (id, is) in after {
            if !before.contains_key(id) {
                assert!(rank(&is.role) <= role, "made somebody above: {is:?}");
                assert_eq!(role, Role::OrgAdmin, "made somebody: {is:?}");
            }
        }
    }
}

fn rank(role: &str) -> Role {
    match role {
        "member" => Role::Member,
        "help-desk" => Role::HelpDesk,
        "org-admin" => Role::OrgAdmin,
        other => panic!("no role: {other}"),
    }
}

/// Does it, and says what it was and which account that gives a hold of.
#[expect(clippy::disallowed_methods, reason = "an address that nobody has yet")]
async fn attempt(caller: &Caller<'_>, step: &Step, on: UserId) -> (&'static str, Option<UserId>) {
    let user = format!("/api/v1/users/{on}");
    let role = ["MEMBER", "HELP_DESK", "ORG_ADMIN"][usize::from(step.how) % 3];
    match step.verb {
        0 | 1 => {
            caller.reset(on).await;
            ("reset-mfa", None)
        }
        2 | 3 => {
            // The link is in the answer: whoever asks has the account.
            let answer = caller.call(&format!("{user}/reset-password")).await;
            (
                "reset-password",
                answer.body["invitationLink"].is_string().then_some(on),
            )
        }
        4 | 5 => {
            caller.patch(&user, json!({ "role": role })).await;
            ("role", None)
        }
        6 => {
            caller
                .patch(&user, json!({ "isActive": step.how.is_multiple_of(2) }))
                .await;
            ("standing", None)
        }
        7 => {
            caller
                .patch(&user, json!({ "locked": false, "name": "walked" }))
                .await;
            ("unlock", None)
        }
        8 => {
            caller.delete(&user).await;
            ("delete", None)
        }
        9 => {
            let body = json!({ "email": format!("{}@acme.example", Uuid::new_v4()), "role": role });
            let answer = caller.post("/api/v1/users", body).await;
            let id = answer.body["id"].as_str().and_then(|id| id.parse().ok());
            ("create", id.map(UserId))
        }
        10 => {
            let rule = ["allowed", "second-admin", "refused"][usize::from(step.how) % 3];
            let body = json!({ "adminOnAdmin": rule, "helpDeskEnabled": step.how.is_multiple_of(2) });
            caller.patch("/api/v1/organization/settings", body).await;
            ("settings", None)
        }
        11 => {
            caller.call(&format!("{user}/end-sessions")).await;
            caller.delete(&format!("{user}/sessions")).await;
            ("end-sessions", None)
        }
        12 => {
            caller.call(&format!("{user}/restore-factors")).await;
            ("restore", None)
        }
        13 => {
            let body = json!({ "name": "walked", "scopes": ["users:read", "audit:read"] });
            let answer = caller.post("/api/v1/api-keys", body).await;
            if let (Some(key), Some(id)) = (answer.body["key"].as_str(), answer.body["id"].as_str()) {
                let with_key = [("X-API-Key", key)];
                caller
                    .send(Method::POST, &format!("{user}/reset-mfa"), None, &with_key)
                    .await;
                caller.delete(&format!("/api/v1/api-keys/{id}")).await;
            }
            ("api-keys", None)
        }
        _ => {
            let open = caller.get("/api/v1/approvals?state=open").await;
            let open = open.body.as_array().cloned().unwrap_or_default();
            let Some(approval) = open.get(usize::from(step.how) % open.len().max(1)) else {
                return ("approve", None);
            };
            let verb = if step.verb == 14 { "approve" } else { "reject" };
            let id = text(approval, "id");
            let answer = caller.call(&format!("/api/v1/approvals/{id}/{verb}")).await;
            let target = approval["target"]["id"].as_str().and_then(|id| id.parse().ok());
            let link = answer.body["invitationLink"].is_string();
            ("approve", target.map(UserId).filter(|_| link))
        }
    }
}

fn text(value: &Value, field: &str) -> String {
    value[field].as_str().expect("a text").to_owned()
}

fn walk(start: Role, rule: AdminOnAdmin, desk: bool, steps: &[Step]) -> BTreeMap<&'static str, u32> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .expect("a runtime");
    runtime.block_on(async {
        let mut walk = Walk::begin(start, rule, desk).await;
        for step in steps {
            walk.take(step).await;
        }
        std::mem::take(&mut walk.done)
    })
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 12, max_shrink_iters: 200, ..ProptestConfig::default() })]

    #[test]
    fn no_sequence_of_verbs_gives_a_hold_of_anybody_above(
        steps in steps(), start in 0usize..4, rule in 0usize..3, desk: bool,
    ) {
        let start = [Role::Member, Role::HelpDesk, Role::OrgAdmin, Role::OrgAdmin][start];
        let rule = [AdminOnAdmin::Allowed, AdminOnAdmin::SecondAdmin, AdminOnAdmin::Refused][rule];
        walk(start, rule, desk, &steps);
    }
}

/// The walker does get somewhere: an admin changes members, a help desk resets them.
#[test]
fn a_walk_is_not_refused_everything() {
    let every = |verb| {
        (0..8).map(move |on| Step {
            by: 0,
            verb,
            on,
            how: 1,
        })
    };
    for (verb, name) in [
        (0, "reset-mfa"),
        (2, "reset-password"),
        (4, "role"),
        (6, "standing"),
        (8, "delete"),
    ] {
        let steps: Vec<_> = every(verb).collect();
        let admin = walk(Role::OrgAdmin, AdminOnAdmin::Refused, true, &steps);
        assert!(admin.contains_key(name), "{name}: {admin:?}");
    }
    let all: Vec<_> = (0..16).flat_map(every).collect();
    let desk = walk(Role::HelpDesk, AdminOnAdmin::Allowed, true, &all);
    assert_eq!(desk.keys().collect::<Vec<_>>(), [&"reset-mfa"]);
    assert!(walk(Role::Member, AdminOnAdmin::Allowed, true, &all).is_empty());
}
