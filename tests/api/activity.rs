//! What a user sees of what others did to their account, and nothing else.

use jiff::SignedDuration;
use latchkey::domain::audit::{ActorRef, Event, EventType, Resource};
use latchkey::service::trail;
use latchkey::store::audit;
use poem::http::Method;
use serde_json::{Value, json};

use crate::support::{Answer, DEVELOPER, TestApp, append, reset_path};

const ACTIVITY: &str = "/api/v1/account/activity";

async fn of_developer(app: &TestApp, query: &str) -> Answer {
    let path = format!("{ACTIVITY}{query}");
    app.caller(&app.developer).await.get(&path).await
}

fn kinds(answer: &Answer) -> Vec<String> {
    let content = answer.assert_ok()["content"].as_array().unwrap();
    content
        .iter()
        .map(|act| act["eventType"].as_str().unwrap().to_owned())
        .collect()
}

#[tokio::test]
async fn a_user_sees_what_admins_and_operators_did_to_them_and_how_it_ended() {
    let app = TestApp::new().await;
    let admin = app.admin().await;
    let user = format!("/api/v1/users/{DEVELOPER}");
    admin
        .patch(&user, json!({ "name": "Dev", "isActive": true }))
        .await;
    let body = json!({ "reason": "called about Eve's case", "ticket": "HD-secret" });
    let path = reset_path(DEVELOPER);
    admin.post(&path, body.clone()).await.assert_ok();
    // No second factor is left: refused.
    admin.post(&path, body).await;
    let answer = of_developer(&app, "").await;
    assert_eq!(
        kinds(&answer)[..4],
        ["TOKEN_MINT", "USER_MFA_RESET", "USER_MFA_RESET", "USER_UPDATE"]
    );
    let acts = answer.body["content"].as_array().unwrap();
    assert_eq!(
        acts[2],
        json!({
            "id": acts[2]["id"],
            "eventType": "USER_MFA_RESET",
            "result": "SUCCESS",
            "awaitsApproval": false,
            "actorType": "USER",
            "actorEmail": "admin@acme.example",
            "changed": [],
            "sessionsEnded": 0,
            "createdAt": "2026-02-18T10:30:00.000Z",
        })
    );
    assert_eq!(acts[1]["result"], "DENIED");
    assert_eq!(acts[3]["changed"], json!(["name"]));
    assert_eq!(acts.last().unwrap()["eventType"], "USER_CREATE");
    assert_eq!(acts.last().unwrap()["actorType"], "OPERATOR");
    // Reasons, tickets, addresses and messages are the organisation's.
    for hidden in ["Eve", "HD-secret", "127.0.0.1", "not enabled", "second@"] {
        assert!(!answer.text.contains(hidden), "{hidden}: {}", answer.text);
    }
}

#[tokio::test]
async fn nothing_of_others_and_nothing_of_ones_own_is_in_it() {
    let app = TestApp::new().await;
    let admin = app.admin().await;
    admin.reset(&app.member.id).await;
    admin.reset(DEVELOPER).await.assert_ok();
    app.admin_of_other_org().await.reset(DEVELOPER).await;
    let own = app.caller(&app.developer).await;
    own.send(Method::DELETE, "/api/v1/account/sessions", None, &[])
        .await
        .assert_ok();
    let login =
        json!({ "organizationSlug": "acme", "email": "dev@acme.example", "password": "wrong wrong wrong" });
    app.anonymous().post("/api/v1/auth/login", login).await;
    let answer = own.get(ACTIVITY).await;
    let kinds = kinds(&answer);
    assert_eq!(
        kinds.iter().filter(|kind| *kind == "USER_MFA_RESET").count(),
        1,
        "{kinds:?}"
    );
    assert!(!kinds.iter().any(|kind| kind == "USER_SESSIONS_END"), "{kinds:?}");
    assert!(!kinds.iter().any(|kind| kind == "USER_LOGIN"), "{kinds:?}");
    assert!(
        !answer.text.contains("globex") && !answer.text.contains("member@"),
        "{}",
        answer.text
    );
    // Another user sees another list.
    let member = app.member().await.get(ACTIVITY).await;
    assert!(
        !member.text.contains(acts_id(&answer, "USER_MFA_RESET")),
        "{}",
        member.text
    );
    assert_eq!(app.anonymous().get(ACTIVITY).await.status.as_u16(), 401);
}

fn acts_id<'a>(answer: &'a Answer, kind: &str) -> &'a str {
    let content = answer.body["content"].as_array().unwrap();
    let act = content.iter().find(|act| act["eventType"] == kind).unwrap();
    act["id"].as_str().unwrap()
}

#[tokio::test]
async fn pages_follow_each_other_and_a_cursor_of_others_is_none() {
    let app = TestApp::new().await;
    for n in 0..7 {
        let event = Event::new(EventType::UserUpdate, Some(app.acme), ActorRef::user(&app.admin))
            .on(Resource::user(&app.developer))
            .with("changes", json!({ "name": "changed", format!("field{n}"): 1 }));
        append(&app.services, event).await.unwrap();
        app.advance(SignedDuration::from_secs(1));
    }
    let caller = app.caller(&app.developer).await;
    let mut seen = Vec::new();
    let mut query = "?size=3".to_owned();
    loop {
        let page = caller.get(&format!("{ACTIVITY}{query}")).await;
        let body = page.assert_ok();
        let content = body["content"].as_array().unwrap();
        assert!(content.len() <= 3);
        seen.extend(content.iter().map(|act| act["id"].as_str().unwrap().to_owned()));
        match body.get("nextCursor") {
            Some(next) => query = format!("?size=3&cursor={}", next.as_str().unwrap()),
            None => break,
        }
    }
    let whole = caller.get(&format!("{ACTIVITY}?size=100")).await;
    let content = whole.assert_ok()["content"].as_array().unwrap();
    let all: Vec<Value> = content.iter().map(|act| act["id"].clone()).collect();
    assert_eq!(json!(seen), json!(all));
    assert_eq!(whole.body.get("nextCursor"), None);

    // Cursors: another user's act, another organisation's, one that isn't there, no id at all.
    let admin = app.admin().await;
    admin.reset(&app.member.id).await;
    let entry = |sequence: u64| {
        let read = |db: &_| audit::find_record(db, sequence);
        let record = app.services.store.read(read).unwrap().unwrap();
        record.leaf().unwrap().id
    };
    let of_member = entry(trail::size(&app.services).unwrap() - 1);
    let of_node = entry(0);
    let nobody = app.services.entropy.uuid(app.services.clock.now());
    for cursor in [
        of_member.to_string(),
        of_node.to_string(),
        nobody.to_string(),
        "x".into(),
    ] {
        let refused = caller.get(&format!("{ACTIVITY}?cursor={cursor}")).await;
        assert_eq!(refused.status.as_u16(), 400, "{cursor}: {}", refused.text);
        refused.assert_envelope();
    }
    for size in ["0", "101", "-1"] {
        let refused = caller.get(&format!("{ACTIVITY}?size={size}")).await;
        assert_eq!(refused.status.as_u16(), 400, "{size}");
    }
}

/// A page costs the same however long the trail is: it is read out of an index.
#[tokio::test]
async fn the_list_is_read_from_its_index() {
    let app = TestApp::new().await;
    let plan = app
        .services
        .store
        .read(|db| {
            let mut statement = db.prepare(
                "EXPLAIN QUERY PLAN SELECT sequence FROM audit_entry
                 WHERE resource_id = ?1 AND +organization_id = ?2 AND sequence < ?3
                   AND at IS NOT NULL AND resource_type = 'USER' AND actor_type <> 'ANONYMOUS'
                   AND actor_id IS NOT resource_id
                 ORDER BY sequence DESC LIMIT ?4",
            )?;
            let rows = statement.query_map([0, 0, 0, 0], |row| row.get::<_, String>(3))?;
            Ok(rows.collect::<Result<Vec<_>, _>>()?)
        })
        .unwrap();
    assert!(
        plan.len() == 1 && plan[0].contains("audit_entry_by_subject"),
        "{plan:?}"
    );
}
