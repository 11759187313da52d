//! Every entry reaches the operator's SIEM: in order, at least once, by each way out for itself.

use std::io::Read as _;
use std::net::{TcpListener, TcpStream};

use jiff::SignedDuration;
use latchkey::courier::{CourierConfig, SyslogTarget};
use latchkey::domain::audit::{ActorRef, Event, EventType};
use latchkey::service::Settings;
use latchkey::service::deliveries::{Channel, send_due};
use latchkey::service::trail::{self, ForwardTo, Way, forward_due};
use latchkey::store::audit;
use serde_json::Value;
use standardwebhooks::Webhook;

use crate::deliveries::calls_here;
use crate::deliveries::receivers::Receiver;
use crate::support::{DEVELOPER, Setup, TestApp, append};

async fn app(courier: CourierConfig, forward_to: ForwardTo) -> TestApp {
    let mut settings = Settings::default();
    settings.trail.forward_to = forward_to;
    TestApp::with(Setup {
        settings,
        courier,
        ..Setup::default()
    })
    .await
}

pub async fn app_with_webhook(receiver: &Receiver, organizations: &[&str]) -> TestApp {
    let forward_to = ForwardTo {
        webhook: Some(receiver.url()),
        organizations: organizations.iter().map(ToString::to_string).collect(),
        ..ForwardTo::default()
    };
    app(calls_here(), forward_to).await
}

async fn app_with_syslog(target: &str) -> TestApp {
    let courier = CourierConfig {
        syslog: Some(SyslogTarget::parse(target).unwrap()),
        ..CourierConfig::default()
    };
    let forward_to = ForwardTo {
        syslog: true,
        ..ForwardTo::default()
    };
    app(courier, forward_to).await
}

async fn app_with_witness(receiver: &Receiver) -> TestApp {
    let mut settings = Settings::default();
    settings.trail.witness_url = Some(receiver.url());
    TestApp::with(Setup {
        settings,
        courier: calls_here(),
        ..Setup::default()
    })
    .await
}

/// Sends all that is due now.
async fn forward(app: &TestApp, way: Way) {
    while forward_due(&app.services, way).await.unwrap() {}
}

fn sequences(receiver: &Receiver) -> Vec<u64> {
    let calls = receiver.calls();
    calls
        .iter()
        .map(|call| {
            let body: Value = serde_json::from_str(&call.body).unwrap();
            body["data"]["sequence"].as_u64().unwrap()
        })
        .collect()
}

#[tokio::test]
async fn a_webhook_is_told_every_entry_once_in_order_and_can_tell_who_calls() {
    let receiver = Receiver::start();
    let app = app_with_webhook(&receiver, &[]).await;
    forward(&app, Way::Webhook).await;
    assert_eq!(receiver.calls().len(), 0, "what was before is in an export");
    let first = trail::size(&app.services).unwrap();
    let admin = app.admin().await;
    admin.reset(DEVELOPER).await.assert_ok();
    for _ in 0..100 {
        admin.reset(DEVELOPER).await;
    }
    forward(&app, Way::Webhook).await;
    let end = trail::size(&app.services).unwrap();
    assert_eq!(sequences(&receiver), (first..end).collect::<Vec<_>>());
    forward(&app, Way::Webhook).await;
    assert_eq!(receiver.calls().len() as u64, end - first, "nothing comes twice");

    let secret = app.services.keys.webhook_secret(None);
    let library = Webhook::from_bytes(secret.to_vec()).unwrap();
    let call = &receiver.calls()[1];
    let header = |name: &str| call.headers[name].to_str().unwrap();
    let at = header("webhook-timestamp").parse().unwrap();
    let signature = library
        .sign(header("webhook-id"), at, call.body.as_bytes())
        .unwrap();
    assert_eq!(header("webhook-signature"), signature);
    let body: Value = serde_json::from_str(&call.body).unwrap();
    assert_eq!(body["type"], "audit.entry");
    let data = &body["data"];
    assert_eq!(call.headers["webhook-id"], data["id"].as_str().unwrap());
    assert_eq!(data["eventType"], "USER_MFA_RESET");
    assert_eq!(data["result"], "SUCCESS");
    assert_eq!(data["organization"], "acme");
    assert_eq!(data["resourceId"], DEVELOPER);
    assert_eq!(data["actorEmail"], "admin@acme.example");
    // What the receiver keeps can be compared with the tree.
    let read = |db: &_| audit::find_record(db, first + 1);
    let record = app.services.store.read(read).unwrap().unwrap();
    assert_eq!(data["leafHash"], hex::encode(record.kept_leaf_hash().unwrap()));
}

#[tokio::test]
async fn what_fails_is_tried_again_and_nothing_overtakes_it() {
    let receiver = Receiver::start();
    let app = app_with_webhook(&receiver, &[]).await;
    forward(&app, Way::Webhook).await;
    let first = trail::size(&app.services).unwrap();
    let admin = app.admin().await;
    admin.reset(DEVELOPER).await.assert_ok();
    admin.reset(DEVELOPER).await;
    receiver.answer_next(&["204 No Content", "500 Internal Server Error"]);
    forward(&app, Way::Webhook).await;
    assert_eq!(sequences(&receiver), [first, first + 1], "the second one failed");
    forward(&app, Way::Webhook).await;
    assert_eq!(receiver.calls().len(), 2, "not before its time");
    let place = app
        .services
        .store
        .read(|db| audit::find_forwarding(db, "webhook"))
        .unwrap()
        .unwrap();
    assert_eq!((place.next, place.attempts), (first + 1, 1));
    assert!(place.last_error.is_some());
    app.advance(SignedDuration::from_secs(10));
    receiver.answer_next(&["503 Service Unavailable"]);
    forward(&app, Way::Webhook).await;
    // A receiver that was down for a week is told everything, in order.
    for _ in 0..30 {
        receiver.answer_next(&["503 Service Unavailable"]);
        app.advance(SignedDuration::from_mins(10));
        forward(&app, Way::Webhook).await;
    }
    let tried = receiver.calls().len();
    app.advance(SignedDuration::from_mins(10));
    forward(&app, Way::Webhook).await;
    let end = trail::size(&app.services).unwrap();
    assert_eq!(
        sequences(&receiver)[tried..],
        (first + 1..end).collect::<Vec<_>>()
    );
    let calls = receiver.calls();
    let names: Vec<_> = calls[1..=tried]
        .iter()
        .map(|call| &call.headers["webhook-id"])
        .collect();
    assert!(
        names.iter().all(|name| *name == names[0]),
        "one name for every attempt"
    );

    // Sent, and the power went before that was noted: sent again, under the same name.
    let back = first + 1;
    let unnoted = app.services.store.write(move |tx| {
        let mut place = audit::find_forwarding(tx, "webhook")?.expect("a place");
        place.next = back;
        audit::update_forwarding(tx, &place)
    });
    unnoted.await.unwrap();
    forward(&app, Way::Webhook).await;
    let calls = receiver.calls();
    assert_eq!(calls[tried + 2..].len() as u64, end - back);
    assert_eq!(
        calls[tried + 2].headers["webhook-id"],
        calls[tried].headers["webhook-id"]
    );
}

#[tokio::test]
async fn what_cannot_be_noted_is_not_sent_every_second() {
    let receiver = Receiver::start();
    let app = app_with_webhook(&receiver, &[]).await;
    forward(&app, Way::Webhook).await;
    app.admin().await.reset(DEVELOPER).await.assert_ok();
    let fault =
        "CREATE TEMP TRIGGER fault BEFORE INSERT ON forwarding BEGIN SELECT RAISE(ABORT, 'fault'); END";
    app.execute(fault).await;
    assert!(forward_due(&app.services, Way::Webhook).await.is_err());
    assert_eq!(receiver.calls().len(), 0, "that it was sent could not be noted");

    // The disk is full from the moment at which it was sent.
    app.execute("DROP TRIGGER fault").await;
    let fault = "CREATE TEMP TRIGGER fault BEFORE INSERT ON forwarding \
                 WHEN NEW.next > (SELECT next FROM forwarding WHERE channel = NEW.channel) \
                 BEGIN SELECT RAISE(ABORT, 'fault'); END";
    app.execute(fault).await;
    assert!(forward_due(&app.services, Way::Webhook).await.is_err());
    let sent = receiver.calls().len();
    assert!(sent > 0);
    assert!(!forward_due(&app.services, Way::Webhook).await.unwrap());
    assert_eq!(receiver.calls().len(), sent, "not the next second");

    app.execute("DROP TRIGGER fault").await;
    app.advance(SignedDuration::from_secs(10));
    forward(&app, Way::Webhook).await;
    assert_eq!(receiver.calls().len(), 2 * sent, "at least once");
}

#[tokio::test]
async fn only_the_organisations_that_the_operator_named_are_told_of() {
    let receiver = Receiver::start();
    let app = app_with_webhook(&receiver, &["globex"]).await;
    forward(&app, Way::Webhook).await;
    app.admin().await.reset(DEVELOPER).await.assert_ok();
    app.admin_of_other_org()
        .await
        .reset(app.other_developer.id)
        .await
        .assert_ok();
    forward(&app, Way::Webhook).await;
    let calls = receiver.calls();
    assert!(!calls.is_empty());
    for call in calls {
        let body: Value = serde_json::from_str(&call.body).unwrap();
        assert_eq!(body["data"]["organization"], "globex", "{}", call.body);
        assert!(!call.body.contains("acme"), "{}", call.body);
    }
}

/// One message with counted octets (RFC 6587 §3.4.1).
fn read_one(stream: &mut TcpStream) -> String {
    let mut digits = String::new();
    let mut byte = [0];
    loop {
        stream.read_exact(&mut byte).expect("a byte");
        match byte[0] {
            b' ' => break,
            digit => digits.push(digit.into()),
        }
    }
    let mut text = vec![0; digits.parse().expect("a length")];
    stream.read_exact(&mut text).expect("a message");
    String::from_utf8(text).expect("UTF-8")
}

#[tokio::test]
async fn syslog_is_told_every_entry_in_order_as_rfc_5424_has_it() {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let target = format!("tcp://{}", listener.local_addr().unwrap());
    let app = app_with_syslog(&target).await;
    forward(&app, Way::Syslog).await;
    let first = trail::size(&app.services).unwrap();
    let admin = app.admin().await;
    admin.reset(DEVELOPER).await.assert_ok();
    admin.reset(DEVELOPER).await;
    forward(&app, Way::Syslog).await;
    let (mut stream, _) = listener.accept().unwrap();
    for (place, kind, severity) in [
        (first, "TOKEN_MINT", syslog_rfc5424::SyslogSeverity::SEV_NOTICE),
        (
            first + 1,
            "USER_MFA_RESET",
            syslog_rfc5424::SyslogSeverity::SEV_NOTICE,
        ),
        (
            first + 2,
            "USER_MFA_RESET",
            syslog_rfc5424::SyslogSeverity::SEV_WARNING,
        ),
    ] {
        let text = read_one(&mut stream);
        let read = syslog_rfc5424::parse_message(&text).unwrap();
        assert_eq!(read.msgid.as_deref(), Some(kind));
        assert_eq!(read.severity, severity);
        let entry: Value = serde_json::from_str(read.msg.trim_start_matches('\u{feff}')).unwrap();
        assert_eq!(entry["sequence"], place);
    }
}

/// Appends an entry whose details are of that many characters.
async fn append_long(app: &TestApp, characters: usize) -> u64 {
    let event = Event::new(EventType::UserUpdate, Some(app.acme), ActorRef::operator())
        .with("note", "x".repeat(characters));
    append(&app.services, event).await.unwrap()
}

#[tokio::test]
async fn an_entry_too_long_for_a_datagram_is_told_shortened_and_holds_nothing_up() {
    let dir = tempfile::tempdir().unwrap();
    let udp = std::net::UdpSocket::bind("127.0.0.1:0").unwrap();
    let unix = std::os::unix::net::UnixDatagram::bind(dir.path().join("log")).unwrap();
    let targets = [
        format!("udp://{}", udp.local_addr().unwrap()),
        format!("unix:{}", dir.path().join("log").display()),
    ];
    udp.set_read_timeout(Some(std::time::Duration::from_secs(5)))
        .unwrap();
    unix.set_read_timeout(Some(std::time::Duration::from_secs(5)))
        .unwrap();
    for (way, target) in targets.iter().enumerate() {
        let app = app_with_syslog(target).await;
        forward(&app, Way::Syslog).await;
        let long = append_long(&app, 70_000 + 500_000 * way).await;
        let short = append_long(&app, 10).await;
        forward(&app, Way::Syslog).await;
        let mut buffer = vec![0; 1 << 20];
        for (sequence, is_truncated) in [(long, true), (short, false)] {
            let length = if way == 0 {
                udp.recv(&mut buffer).unwrap()
            } else {
                unix.recv(&mut buffer).unwrap()
            };
            let text = String::from_utf8(buffer[..length].to_vec()).unwrap();
            let entry: Value = serde_json::from_str(&text[text.find('{').unwrap()..]).unwrap();
            assert_eq!(entry["sequence"], sequence);
            assert_eq!(entry["truncated"] == true, is_truncated, "{text}");
            let record = app
                .services
                .store
                .read(|db| audit::find_record(db, sequence))
                .unwrap();
            let leaf_hash = record.unwrap().kept_leaf_hash().unwrap();
            assert_eq!(entry["leafHash"], hex::encode(leaf_hash));
        }
    }
}

#[tokio::test]
async fn what_a_receiver_refuses_for_hours_is_left_out_on_the_record() {
    let receiver = Receiver::start();
    let app = app_with_webhook(&receiver, &[]).await;
    forward(&app, Way::Webhook).await;
    let refused = append_long(&app, 10).await;
    let behind = append_long(&app, 10).await;
    // Shortened it would do, the first time.
    receiver.answer_next(&["413 Payload Too Large"]);
    forward(&app, Way::Webhook).await;
    assert_eq!(sequences(&receiver), [refused, refused, behind]);
    let body: Value = serde_json::from_str(&receiver.calls()[1].body).unwrap();
    assert_eq!(body["data"]["truncated"], true);

    let refused = append_long(&app, 10).await;
    let behind = append_long(&app, 10).await;
    for round in 0..16 {
        assert_ne!(sequences(&receiver).last(), Some(&behind), "round {round}");
        receiver.answer_next(&["400 Bad Request", "400 Bad Request"]);
        forward(&app, Way::Webhook).await;
        app.advance(SignedDuration::from_mins(11));
    }
    forward(&app, Way::Webhook).await;
    let told = sequences(&receiver);
    assert_eq!(told[told.len() - 2..], [behind, behind + 1], "{told:?}");
    let entry = app.last_entry();
    assert_eq!(entry["eventType"], "DELIVERY_DEAD");
    assert_eq!(entry["details"]["leftOut"], refused);
    assert_eq!(entry["details"]["attempts"], 16);
    assert_eq!(entry["errorMessage"], "the receiver answered 400 Bad Request");
}

#[tokio::test]
async fn a_row_that_cannot_be_read_is_told_as_such_and_holds_nothing_up() {
    let receiver = Receiver::start();
    let app = app_with_webhook(&receiver, &[]).await;
    forward(&app, Way::Webhook).await;
    let bad = append_long(&app, 10).await;
    let behind = append_long(&app, 10).await;
    append_long(&app, 10).await;
    let set = |column: &'static str, value: &'static str| {
        let row = i64::try_from(bad).unwrap();
        app.services.store.write(move |tx| {
            let sql = format!("UPDATE audit_entry SET {column} = {value} WHERE sequence = ?1");
            Ok(tx.execute(&sql, [row])?)
        })
    };
    let leaf_hash = |sequence| {
        let find = |db: &_| audit::find_record(db, sequence);
        let record = app.services.store.read(find).unwrap().unwrap();
        hex::encode(record.kept_leaf_hash().unwrap())
    };
    let kept = leaf_hash(bad);
    set("event_type", "'X'").await.unwrap();
    forward(&app, Way::Webhook).await;
    assert_eq!(sequences(&receiver), [bad, behind, behind + 1]);
    let calls = receiver.calls();
    let body: Value = serde_json::from_str(&calls[0].body).unwrap();
    assert_eq!(
        body["data"],
        serde_json::json!({
            "sequence": bad,
            "organization": "acme",
            "leafHash": kept,
            "unreadable": true,
        })
    );
    assert_eq!(calls[0].headers["webhook-id"], format!("audit-entry-{bad}"));
    set("event_type", "'USER_UPDATE'").await.unwrap();
}

#[tokio::test]
async fn a_witness_is_sent_each_checkpoint_and_can_check_it() {
    let receiver = Receiver::start();
    let app = app_with_witness(&receiver).await;
    let signed = trail::checkpoint(&app.services).await.unwrap();
    trail::checkpoint(&app.services).await.unwrap();
    send_due(&app.services, Channel::Webhook).await.unwrap();
    let calls = receiver.calls();
    assert_eq!(calls.len(), 1, "one call for one checkpoint");
    let body: Value = serde_json::from_str(&calls[0].body).unwrap();
    assert_eq!(body["type"], "audit.checkpoint");
    let keys = trail::log_keys(&app.services).await.unwrap();
    let told = keys.open(body["data"]["checkpoint"].as_str().unwrap()).unwrap();
    assert_eq!(
        (told.size, body["data"]["size"].as_u64()),
        (signed.size, Some(signed.size))
    );
}

/// A witness that is dead for long is owed one call, and that it is dead is nothing to call it about.
#[tokio::test]
async fn a_witness_that_does_not_answer_is_owed_the_newest_checkpoint_alone() {
    let receiver = Receiver::start();
    let app = app_with_witness(&receiver).await;
    let owed = "SELECT count(*) FROM delivery WHERE state = 'owed'";
    for _ in 0..3 {
        append_long(&app, 10).await;
        trail::checkpoint(&app.services).await.unwrap();
        assert_eq!(app.count(owed), 1);
        receiver.answer_next(&["503 Service Unavailable"]);
        app.advance(SignedDuration::from_hours(1));
        send_due(&app.services, Channel::Webhook).await.unwrap();
    }
    let names: std::collections::BTreeSet<_> = receiver
        .calls()
        .iter()
        .map(|call| call.headers["webhook-id"].clone())
        .map(|name| name.to_str().unwrap().to_owned())
        .collect();
    assert_eq!(names.len(), 3, "each checkpoint is a call of its own");
    assert_eq!(
        app.count("SELECT attempts FROM delivery"),
        3,
        "and their attempts add up"
    );

    receiver.answer_next(&["410 Gone"]);
    app.advance(SignedDuration::from_hours(1));
    send_due(&app.services, Channel::Webhook).await.unwrap();
    let entry = app.last_entry();
    assert_eq!(
        (&entry["eventType"], &entry["details"]["call"]),
        (&"DELIVERY_DEAD".into(), &"audit.checkpoint".into())
    );
    app.advance(SignedDuration::from_hours(1));
    assert_eq!(trail::checkpoint_if_due(&app.services).await.unwrap(), None);
    assert_eq!(app.count(owed), 0);
    append_long(&app, 10).await;
    assert!(trail::checkpoint_if_due(&app.services).await.unwrap().is_some());
    assert_eq!(app.count(owed), 1);
}
