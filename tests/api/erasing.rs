//! Whoever is erased from the trail: nothing says who they were, and every proof is as it was.

use latchkey::domain::audit::{ActorRef, Content, Event, EventType, Resource, check_receipt};
use latchkey::service::housekeeping;
use latchkey::service::trail::{self, Format, Selection};
use latchkey::store::audit;
use serde_json::json;

use crate::keeping::{DEVELOPERS_ADDRESS, LOGS, insert_approval, receipt_of_newest, verified};
use crate::support::{DEVELOPER, TestApp, reset_path};
use crate::trail_file::{check, export};

#[tokio::test]
async fn erasing_a_user_reaches_tickets_approvals_and_mail_that_is_owed() {
    use latchkey::store::deliveries::{Channel, OwedDelivery, insert_delivery};
    let app = TestApp::new().await;
    let body = json!({ "ticket": "HD-1" });
    app.admin()
        .await
        .post(&reset_path(DEVELOPER), body)
        .await
        .assert_ok();
    let body = json!({ "ticket": "as for Dev@acme.example, HD-2" });
    let pat = app.employee("pat").await;
    app.admin()
        .await
        .post(&reset_path(pat.id), body)
        .await
        .assert_ok();
    let now = app.services.clock.now();
    insert_approval(&app, "rejected", Some(now.as_millisecond())).await;
    insert_approval(&app, "open", None).await;
    let mail = |to: &str| OwedDelivery {
        organization_id: Some(app.acme),
        channel: Channel::Mail,
        payload: json!({ "to": to, "subject": "S", "body": "B" }).to_string(),
        link: None,
    };
    let call = OwedDelivery {
        organization_id: Some(app.acme),
        channel: Channel::Webhook,
        payload:
            json!({ "url": "https://x.example", "body": json!({ "of": DEVELOPERS_ADDRESS }).to_string() })
                .to_string(),
        link: None,
    };
    let owed = [
        mail("DEV@acme.example"),
        mail("member@acme.example"),
        mail("dev@acme.example"),
        call,
    ];
    let insert = app.services.store.write(move |tx| {
        owed.iter().try_for_each(|one| insert_delivery(tx, one, 0, now))?;
        tx.execute(
            "UPDATE delivery SET state = 'dead', ended_at = 0 WHERE id >= 3",
            [],
        )?;
        Ok(())
    });
    insert.await.unwrap();
    app.erase(&app.developer).await;
    assert_eq!(
        app.count("SELECT count(*) FROM reset_call WHERE ticket IS NOT NULL"),
        0
    );
    assert_eq!(app.count("SELECT count(*) FROM approval"), 1);
    assert_eq!(
        app.count("SELECT count(*) FROM approval WHERE reason IS NOT NULL OR ticket IS NOT NULL"),
        0
    );
    assert_eq!(
        app.count("SELECT count(*) FROM delivery WHERE payload LIKE '%member@acme.example%'"),
        1
    );
    assert_eq!(app.count("SELECT count(*) FROM delivery"), 1);
}

#[tokio::test]
async fn erasing_a_user_leaves_no_trace_of_who_they_were_and_every_proof_as_it_was() {
    let app = TestApp::new().await;
    app.bind("reset-budget", json!({ "perAdmin": { "maxPerDay": 5 } }))
        .await;
    let admin = app.admin().await;
    let body = json!({ "reason": "Dev called from +49 170 0000000", "ticket": "HD-1" });
    admin.post(&reset_path(DEVELOPER), body).await.assert_ok();
    let receipt = receipt_of_newest(&app).await;
    let login =
        json!({ "organizationSlug": "acme", "email": "Dev@ACME.example", "password": "wrong wrong wrong" });
    let failed = app.anonymous().post("/api/v1/auth/login", login).await;
    assert_eq!(failed.status.as_u16(), 401);
    // Somebody else's entry, which stays.
    admin.reset(&app.member.id).await;
    let keys = trail::log_keys(&app.services).await.unwrap();
    let before = trail::checkpoint(&app.services).await.unwrap();
    assert_eq!(app.count("SELECT count(*) FROM question"), 1);

    let mut told = Vec::new();
    let erased = trail::erase_user(
        &app.services,
        app.acme,
        app.developer.id,
        ActorRef::operator(),
        |done, all| told.push((done, all)),
    );
    let erased = erased.await.unwrap();
    assert!(erased >= 3, "{erased}");
    let (done, all) = told.last().unwrap();
    assert_eq!(done, all);
    assert_eq!(app.count("SELECT count(*) FROM erasure"), 0, "it is done");

    let report = verified(&app.services);
    assert_eq!(report.findings, []);
    assert!(report.erased > 0);
    assert_eq!(app.count("SELECT count(*) FROM question"), 0);
    assert_eq!(app.count("SELECT count(*) FROM decision"), 0);
    let everything = serde_json::to_string(&app.trail()).unwrap();
    assert!(
        !everything.to_lowercase().contains(DEVELOPERS_ADDRESS),
        "{everything}"
    );
    assert!(!everything.contains("+49 170"), "{everything}");
    assert!(everything.contains("member@acme.example"));
    assert!(everything.contains("admin@acme.example"));
    let entry = app.last_entry();
    assert_eq!(entry["eventType"], "AUDIT_ERASE");
    assert_eq!(entry["actor"]["type"], "OPERATOR");
    assert_eq!(
        entry["resource"],
        json!({ "type": "USER", "id": DEVELOPER, "name": null })
    );
    assert_eq!(entry["details"]["removed"], erased);

    let page = app
        .admin()
        .await
        .get(&format!("{LOGS}?eventType=USER_MFA_RESET"))
        .await;
    let entry = &page.assert_ok()["content"][1];
    assert_eq!(entry["resourceId"], DEVELOPER);
    assert_eq!(entry["resourceName"], json!(null));
    assert_eq!(entry["details"], json!({ "erased": ["subject"] }));
    assert_eq!(entry["actorEmail"], "admin@acme.example");
    // A receipt from before proves the entry still; a new one proves it without the data.
    let checked = check_receipt(&receipt, &keys).unwrap();
    let again = trail::receipt(&app.services, checked.record.sequence)
        .await
        .unwrap();
    let again = check_receipt(&again, &keys).unwrap();
    assert_eq!(again.record.leaf(), checked.record.leaf());
    let Content::Whole(body) = &again.record.content else {
        panic!("an erased entry is not pruned")
    };
    assert_eq!(body.subject.data(), None);
    let told = keys.open(&before.note).unwrap();
    let root = app.services.store.read(|db| audit::root(db, told.size)).unwrap();
    assert_eq!(root, told.root);
    for format in [Format::Ndjson, Format::Csv] {
        let file = export(&app, Selection::default(), format).await;
        assert!(!file.to_lowercase().contains(DEVELOPERS_ADDRESS));
    }
    let file = export(&app, Selection::default(), Format::Ndjson).await;
    assert_eq!(check(&file, &keys).findings, []);
}

#[tokio::test]
async fn erasing_nobody_changes_nothing_and_other_organisations_are_not_touched() {
    let app = TestApp::new().await;
    let size = trail::size(&app.services).unwrap();
    let nobody = app.services.entropy.uuid(app.services.clock.now());
    for user in [latchkey::domain::account::UserId(nobody), app.other_admin.id] {
        let erased = trail::erase_user(&app.services, app.acme, user, ActorRef::operator(), |_, _| {});
        assert!(erased.await.is_err());
    }
    assert_eq!(trail::size(&app.services).unwrap(), size);
    assert_eq!(app.count("SELECT count(*) FROM erasure"), 0);
    app.erase(&app.other_admin).await;
    let everything = serde_json::to_string(&app.trail()).unwrap();
    assert!(!everything.contains("admin@globex.example"));
    assert!(everything.contains("admin@acme.example"));
}

/// An erasure that a crash interrupted is in the table; housekeeping goes on with it.
#[tokio::test]
async fn an_interrupted_erasure_is_gone_on_with() {
    let app = TestApp::new().await;
    let at = app.services.clock.now();
    let owed = audit::Erasure {
        organization: app.acme,
        user: app.developer.id,
        actor: ActorRef::system(),
        addresses: vec!["former@acme.example".into()],
        next: None,
    };
    let event = Event::new(EventType::UserUpdate, Some(app.acme), ActorRef::operator())
        .on(Resource::user(&app.member))
        .with("note", "was former@acme.example");
    let id = app.services.entropy.uuid(at);
    let write = app.services.store.write(move |tx| {
        audit::append_entry(tx, at, id, &event)?;
        audit::insert_erasure(tx, &owed, at)
    });
    write.await.unwrap();
    housekeeping::tidy(&app.services).await;
    assert_eq!(app.count("SELECT count(*) FROM erasure"), 0);
    let everything = serde_json::to_string(&app.trail()).unwrap();
    assert!(!everything.contains(DEVELOPERS_ADDRESS), "{everything}");
    assert!(!everything.contains("former@acme.example"), "{everything}");
    assert_eq!(verified(&app.services).findings, []);
}
