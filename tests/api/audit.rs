//! Contract B5, and what lets a reader check the trail.

use jiff::SignedDuration;
use latchkey::domain::audit::{ActorRef, Event, EventType, LogKeys, LogSigner, ReceiptError, check_receipt};
use latchkey::service::trail;
use latchkey::store::audit;
use poem::http::Method;
use serde_json::json;

use crate::support::{DEVELOPER, TestApp, reset_path};

const LOGS: &str = "/api/v1/audit-logs";

#[tokio::test]
async fn a_reset_is_listed_with_every_field_of_the_contract() {
    let app = TestApp::new().await;
    let admin = app.admin().await;
    let body = json!({ "reason": "lost phone", "ticket": "HD-1" });
    admin.post(&reset_path(DEVELOPER), body).await.assert_ok();
    let page = admin
        .get(&format!("{LOGS}?eventType=USER_MFA_RESET&size=5"))
        .await;
    let page = page.assert_ok();
    assert_eq!(page["totalElements"], 1);
    assert_eq!(page["totalPages"], 1);
    assert_eq!(page["number"], 0);
    assert_eq!(page["size"], 5);
    let entry = page["content"][0].as_object().unwrap();
    let fields: Vec<_> = entry.keys().map(String::as_str).collect();
    let contract = [
        "id",
        "eventType",
        "actorEmail",
        "actorType",
        "resourceType",
        "resourceId",
        "resourceName",
        "result",
        "ipAddress",
        "errorMessage",
        "details",
        "organizationName",
        "createdAt",
    ];
    assert_eq!(fields, contract);
    assert_eq!(entry["actorEmail"], "admin@acme.example");
    assert_eq!(entry["actorType"], "USER");
    assert_eq!(entry["resourceType"], "USER");
    assert_eq!(entry["resourceId"], DEVELOPER);
    assert_eq!(entry["resourceName"], "dev@acme.example");
    assert_eq!(entry["result"], "SUCCESS");
    assert_eq!(entry["errorMessage"], json!(null));
    assert_eq!(entry["details"]["reason"], "lost phone");
    assert_eq!(entry["organizationName"], "ACME");
    assert_eq!(entry["createdAt"], "2026-02-18T10:30:00.000Z");
    let id = entry["id"].as_str().unwrap();
    let alone = admin.get(&format!("{LOGS}/{id}")).await;
    assert_eq!(alone.assert_ok(), &page["content"][0]);
}

#[tokio::test]
async fn filters_meet_and_pages_follow_each_other() {
    let app = TestApp::new().await;
    let admin = app.admin().await;
    for minute in 0..5 {
        let refused = admin.reset(&app.member.id).await;
        refused.assert_error(400, "MFA is not enabled for this user");
        let second = app.caller(&app.second_admin).await;
        second.reset(&app.member.id).await;
        app.advance(SignedDuration::from_mins(1));
        let _ = minute;
    }
    let resets = format!("{LOGS}?eventType=USER_MFA_RESET");
    assert_eq!(admin.get(&resets).await.assert_ok()["totalElements"], 10);
    let by_second = format!("{resets}&actorEmail=second@acme.example");
    assert_eq!(admin.get(&by_second).await.assert_ok()["totalElements"], 5);
    let window = format!("{by_second}&from=2026-02-18T10:31:00Z&to=2026-02-18T10:33:00Z");
    assert_eq!(admin.get(&window).await.assert_ok()["totalElements"], 3);

    // By cursor every entry comes once, also when others are written between two pages.
    let mut cursor = String::new();
    let mut seen = Vec::new();
    loop {
        let page = admin.get(&format!("{resets}&size=3&cursor={cursor}")).await;
        let page = page.assert_ok().clone();
        assert!(page.get("totalElements").is_none());
        seen.extend(
            page["content"]
                .as_array()
                .unwrap()
                .iter()
                .map(|e| e["id"].as_str().unwrap().to_owned()),
        );
        admin.reset(&app.member.id).await;
        match page.get("nextCursor") {
            Some(next) => cursor = next.as_str().unwrap().to_owned(),
            None => break,
        }
    }
    let mut distinct = seen.clone();
    distinct.sort();
    distinct.dedup();
    assert_eq!((seen.len(), distinct.len()), (10, 10));
}

#[tokio::test]
async fn a_bad_query_is_400_and_says_which_field() {
    let app = TestApp::new().await;
    let admin = app.admin().await;
    let answer = admin.get(&format!("{LOGS}?eventType=USER_MFA_REST")).await;
    assert_eq!(answer.status.as_u16(), 400);
    assert_eq!(
        answer.body["validationErrors"],
        json!({ "eventType": "is not an event type" })
    );
    for query in ["from=yesterday", "size=0", "size=1001", "page=-1", "cursor=x.y"] {
        let answer = admin.get(&format!("{LOGS}?{query}")).await;
        assert_eq!(answer.status.as_u16(), 400, "{query}: {}", answer.text);
        answer.assert_envelope();
    }
    let huge = admin.get(&format!("{LOGS}?page={}&size=1000", u32::MAX)).await;
    assert_eq!(huge.assert_ok()["content"], json!([]));
}

#[tokio::test]
async fn nobody_reads_the_trail_of_another_organisation() {
    let app = TestApp::new().await;
    let admin = app.admin().await;
    let newest = admin.get(&format!("{LOGS}?size=1")).await;
    let id = newest.assert_ok()["content"][0]["id"]
        .as_str()
        .unwrap()
        .to_owned();
    let other = app.admin_of_other_org().await;
    let message = format!("Audit entry not found with id: {id}");
    other
        .get(&format!("{LOGS}/{id}"))
        .await
        .assert_error(404, &message);
    other
        .get(&format!("{LOGS}/{id}/proof"))
        .await
        .assert_error(404, &message);
    let theirs = other.get(LOGS).await;
    for entry in theirs.assert_ok()["content"].as_array().unwrap() {
        assert_eq!(entry["organizationName"], "GLOBEX");
    }
    for path in [
        LOGS.to_owned(),
        format!("{LOGS}/{id}"),
        format!("{LOGS}/checkpoint"),
        format!("{LOGS}/keys"),
    ] {
        let answer = app.member().await.get(&path).await;
        answer.assert_error(403, "Role ORG_ADMIN is required");
        assert_eq!(app.anonymous().get(&path).await.status.as_u16(), 401);
    }
}

#[tokio::test]
async fn a_proof_convinces_whoever_has_the_key_and_nobody_else_can_make_one() {
    let app = TestApp::new().await;
    let admin = app.admin().await;
    admin.reset(DEVELOPER).await.assert_ok();
    let newest = admin.get(&format!("{LOGS}?size=1")).await;
    let id = newest.assert_ok()["content"][0]["id"]
        .as_str()
        .unwrap()
        .to_owned();
    let proof = admin.get(&format!("{LOGS}/{id}/proof")).await;
    assert_eq!(proof.status.as_u16(), 200, "{}", proof.text);
    assert!(
        proof.text.starts_with("c2sp.org/tlog-proof@v1\nextra "),
        "{}",
        proof.text
    );

    let keys = trail::log_keys(&app.services).await.unwrap();
    let checked = check_receipt(&proof.text, &keys).unwrap();
    let latchkey::domain::audit::Content::Whole(body) = checked.record.content else {
        panic!("a receipt has its entry")
    };
    assert_eq!(body.id.to_string(), id);
    assert_eq!(body.event_type, "USER_MFA_RESET");

    let nobody = LogKeys::default();
    assert!(matches!(
        check_receipt(&proof.text, &nobody),
        Err(ReceiptError::Checkpoint(_))
    ));
    let (head, note) = proof.text.split_once("\n\n").unwrap();
    let shifted = format!("{}\n\n{note}", head.replace("\nindex ", "\nindex 1"));
    assert_eq!(check_receipt(&shifted, &keys), Err(ReceiptError::NotIncluded));
}

#[tokio::test]
async fn the_checkpoint_is_over_everything_so_far() {
    let app = TestApp::new().await;
    let admin = app.admin().await;
    let checkpoint = admin.get(&format!("{LOGS}/checkpoint")).await;
    assert_eq!(checkpoint.status.as_u16(), 200, "{}", checkpoint.text);
    let keys = trail::log_keys(&app.services).await.unwrap();
    let checkpoint = keys.open(&checkpoint.text).unwrap();
    let (size, root) = app
        .services
        .store
        .read(|db| {
            let size = audit::size(db)?;
            Ok((size, audit::root(db, size)?))
        })
        .unwrap();
    assert_eq!((checkpoint.size, checkpoint.root), (size, root));
    let listed = admin.get(&format!("{LOGS}/keys")).await;
    assert_eq!(listed.text, keys.to_string());
}

#[tokio::test]
async fn where_the_key_is_changed_again_and_again_what_it_signs_is_409() {
    let app = TestApp::new().await;
    let admin = app.admin().await;
    admin.reset(DEVELOPER).await.assert_ok();
    let page = admin.get(LOGS).await;
    let entry = page.assert_ok()["content"][0]["id"].as_str().unwrap().to_owned();
    // Only the writer's connection has the table: it sees another key in use than every reader before it.
    let other = LogSigner::new("other/audit-log", &[7; 32]).log_key();
    let begun = format!(
        "CREATE TEMP TABLE audit_log AS SELECT 1 AS number, '{other}' AS verifier_key, 0 AS first_size"
    );
    let begin = move |tx: &latchkey::store::Transaction<'_>| Ok(tx.execute_batch(&begun)?);
    app.services.store.write(begin).await.unwrap();
    let paths = [
        format!("{LOGS}/checkpoint"),
        format!("{LOGS}/keys"),
        format!("{LOGS}/{entry}/proof"),
    ];
    for path in &paths {
        let refused = admin.get(path).await;
        refused.assert_error(409, "The trail's key was changed meanwhile; run it again");
    }
    app.execute("DROP TABLE temp.audit_log").await;
    for path in &paths {
        assert_eq!(admin.get(path).await.status.as_u16(), 200, "{path}");
    }
}

#[tokio::test]
async fn checkpoints_are_signed_when_due_and_only_then() {
    let app = TestApp::new().await;
    assert!(trail::checkpoint_if_due(&app.services).await.unwrap().is_some());
    assert!(trail::checkpoint_if_due(&app.services).await.unwrap().is_none());
    app.advance(SignedDuration::from_mins(2));
    assert!(
        trail::checkpoint_if_due(&app.services).await.unwrap().is_none(),
        "nothing new"
    );
    app.admin().await.reset(DEVELOPER).await.assert_ok();
    let signed = trail::checkpoint_if_due(&app.services).await.unwrap().unwrap();
    let kept = app.services.store.path().with_file_name("checkpoints");
    assert_eq!(std::fs::read_to_string(kept.join("latest")).unwrap(), signed.note);
    let history = std::fs::read_to_string(kept.join("history")).unwrap();
    assert_eq!(history.lines().count(), 2);
}

/// At every so many entries, however fast they come; and no sooner.
#[tokio::test]
async fn checkpoints_are_signed_at_every_so_many_entries() {
    let app = TestApp::new().await;
    let every = app.services.settings.trail.checkpoint_entries;
    let first = trail::checkpoint(&app.services).await.unwrap().size;
    let append = |count: u64| {
        let at = app.services.clock.now();
        let ids: Vec<_> = (0..count).map(|_| app.services.entropy.uuid(at)).collect();
        let event = Event::new(EventType::UserLogin, Some(app.acme), ActorRef::operator());
        app.services.store.write(move |tx| {
            ids.iter()
                .try_for_each(|id| audit::append_entry(tx, at, *id, &event).map(drop))
        })
    };
    for round in 1..=2 {
        append(every - 1).await.unwrap();
        assert_eq!(
            trail::checkpoint_if_due(&app.services).await.unwrap(),
            None,
            "{round}"
        );
        append(1).await.unwrap();
        let signed = trail::checkpoint_if_due(&app.services)
            .await
            .unwrap()
            .expect("due");
        assert_eq!(signed.size, first + round * every);
    }
}

#[tokio::test]
async fn receipts_rest_on_a_signature_that_is_there_and_old_ones_are_thinned() {
    let app = TestApp::new().await;
    let admin = app.admin().await;
    admin.reset(DEVELOPER).await.assert_ok();
    admin.reset(DEVELOPER).await;
    let size = trail::size(&app.services).unwrap();
    let signed = "SELECT count(*) FROM audit_checkpoint";
    let first = trail::receipt(&app.services, size - 1).await.unwrap();
    let before = app.count(signed);
    admin.reset(DEVELOPER).await;
    let keys = trail::log_keys(&app.services).await.unwrap();
    for sequence in [size - 2, size - 1] {
        let receipt = trail::receipt(&app.services, sequence).await.unwrap();
        check_receipt(&receipt, &keys).unwrap();
    }
    assert_eq!(app.count(signed), before, "what was signed reaches that far");

    for minutes in [10, 20, 100] {
        app.advance(SignedDuration::from_mins(minutes));
        admin.reset(DEVELOPER).await;
        trail::checkpoint(&app.services).await.unwrap();
    }
    assert_eq!(
        trail::thin_checkpoints(&app.services).await.unwrap(),
        0,
        "the last day is whole"
    );
    app.advance(SignedDuration::from_hours(48));
    let thinned = trail::thin_checkpoints(&app.services).await.unwrap();
    assert!(thinned > 0);
    assert_eq!(app.count(signed), before + 3 - i64::try_from(thinned).unwrap());
    check_receipt(&first, &keys).unwrap();
    let again = trail::receipt(&app.services, size - 1).await.unwrap();
    check_receipt(&again, &keys).unwrap();
}

#[tokio::test]
async fn a_reset_carries_its_receipt_when_asked() {
    let app = TestApp::new().await;
    let admin = app.admin().await;
    let path = format!("{}?receipt=true", reset_path(DEVELOPER));
    let answer = admin.send(Method::POST, &path, None, &[]).await;
    let body = answer.assert_ok();
    assert_eq!(body["message"], "MFA reset successfully");
    let keys = trail::log_keys(&app.services).await.unwrap();
    let checked = check_receipt(body["receipt"].as_str().unwrap(), &keys).unwrap();
    assert_eq!(checked.record.sequence + 1, checked.checkpoint.size);
    assert_eq!(checked.record.leaf().unwrap().resource, Some(("USER", DEVELOPER)));
}

#[tokio::test]
async fn a_receipt_is_asked_for_by_header_too_and_a_repeat_proves_the_same_entry() {
    let app = TestApp::new().await;
    let admin = app.admin().await;
    let keys = trail::log_keys(&app.services).await.unwrap();
    let path = reset_path(DEVELOPER);
    let key = ("Idempotency-Key", "one");
    let mut sequences = Vec::new();
    for prefer in ["receipt", "respond-async, Receipt; foo=bar", "wait=10,receipt"] {
        let headers = [key, ("Prefer", prefer)];
        let answer = admin.send(Method::POST, &path, None, &headers).await;
        let receipt = answer.assert_ok()["receipt"].as_str().unwrap().to_owned();
        let checked = check_receipt(&receipt, &keys).unwrap();
        sequences.push(checked.record.sequence);
    }
    sequences.dedup();
    assert_eq!(sequences.len(), 1, "a repeat proves what was done first");
    for headers in [&[key][..], &[key, ("Prefer", "return=minimal, receipts")]] {
        let answer = admin.send(Method::POST, &path, None, headers).await;
        assert_eq!(answer.assert_ok().get("receipt"), None);
    }
}
