//! What can't be noted is not sent over and over, and a receiver that does not answer holds up nobody else's.

use std::net::{SocketAddr, TcpListener};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use jiff::SignedDuration;
use latchkey::domain::account::OrganizationId;
use latchkey::service::deliveries::{self, Channel, DeliveryState, OwedDelivery, WAITS_SECS, send_due};
use serde_json::json;

use super::receivers::{MailServer, Receiver};
use super::{app_that_sends, app_with_mail, app_with_webhooks, mail_at, owe, owe_mail, round, state};
use crate::support::TestApp;

const CLAIMED: SignedDuration = SignedDuration::from_secs(10);

#[tokio::test]
async fn nobody_is_told_again_and_again_while_the_disk_takes_no_writing() {
    let server = MailServer::start();
    let app = app_with_mail(&server).await;
    app.admin().await.reset(app.developer.id).await.assert_ok();
    let fault = "CREATE TEMP TRIGGER fault BEFORE UPDATE ON delivery BEGIN SELECT RAISE(ABORT, 'fault'); END";
    app.execute(fault).await;
    for _ in 0..3 {
        assert!(send_due(&app.services, Channel::Mail).await.is_err());
    }
    assert_eq!(server.received().len(), 0, "that it was sent could not be noted");

    // The disk is full from the moment at which it was sent.
    app.execute("DROP TRIGGER fault").await;
    let fault = "CREATE TEMP TRIGGER fault BEFORE UPDATE ON delivery WHEN NEW.state = 'sent' \
                 BEGIN SELECT RAISE(ABORT, 'fault'); END";
    app.execute(fault).await;
    assert!(send_due(&app.services, Channel::Mail).await.is_err());
    for _ in 0..3 {
        assert_eq!(round(&app, Channel::Mail).await, 0, "not the next second");
    }
    assert_eq!(server.received().len(), 1);

    app.execute("DROP TRIGGER fault").await;
    app.advance(CLAIMED);
    assert_eq!(round(&app, Channel::Mail).await, 1, "at least once");
    let [first, second] = [0, 1].map(|n| server.received()[n].header("Message-ID").to_owned());
    assert_eq!(first, second);
}

/// A host that takes connections, and says nothing.
struct Silent {
    address: SocketAddr,
    connections: Arc<AtomicUsize>,
}

impl Silent {
    fn start() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let this = Self {
            address: listener.local_addr().unwrap(),
            connections: Arc::default(),
        };
        let connections = Arc::clone(&this.connections);
        // Ends with the test process.
        std::thread::spawn(move || {
            let mut held = Vec::new();
            for stream in listener.incoming() {
                held.push(stream);
                connections.fetch_add(1, Ordering::SeqCst);
            }
        });
        this
    }

    fn call(&self, app: &TestApp, organization: Option<OrganizationId>) -> OwedDelivery {
        call(app, organization, &format!("http://{}/", self.address))
    }
}

fn call(app: &TestApp, organization: Option<OrganizationId>, url: &str) -> OwedDelivery {
    deliveries::webhook(organization, url, "a.type", app.services.clock.now(), json!({}))
}

#[tokio::test]
async fn an_organisation_whose_webhook_does_not_answer_holds_up_nobody_elses() {
    let (silent, receiver) = (Silent::start(), Receiver::start());
    let app = app_with_webhooks(&["127.0.0.1"], &["127.0.0.0/8"]).await;
    for _ in 0..100 {
        owe(&app, silent.call(&app, Some(app.acme))).await;
    }
    owe(&app, call(&app, Some(app.globex), &receiver.url())).await;
    let services = Arc::clone(&app.services);
    let sending = tokio::spawn(async move { send_due(&services, Channel::Webhook).await });
    let began = Instant::now();
    while receiver.calls().is_empty() {
        // A hundred calls, eight at a time, take three minutes to fail.
        assert!(
            began.elapsed() < Duration::from_secs(60),
            "the other one is called"
        );
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    sending.abort();
}

#[tokio::test]
async fn a_host_that_does_not_answer_is_left_alone_for_the_rest_of_the_round() {
    let silent = Silent::start();
    let app = app_with_webhooks(&["127.0.0.1"], &["127.0.0.0/8"]).await;
    for _ in 0..4 {
        for organization in [None, Some(app.acme), Some(app.globex)] {
            owe(&app, silent.call(&app, organization)).await;
        }
    }
    assert_eq!(round(&app, Channel::Webhook).await, 12);
    assert_eq!(
        silent.connections.load(Ordering::SeqCst),
        8,
        "those under way at once"
    );
    let tried = "SELECT count(*) FROM delivery WHERE attempts = 1";
    assert_eq!(app.count(tried), 8, "what was not tried does not count");
    app.advance(CLAIMED);
    let services = Arc::clone(&app.services);
    let sending = tokio::spawn(async move { send_due(&services, Channel::Webhook).await });
    let began = Instant::now();
    while silent.connections.load(Ordering::SeqCst) == 8 {
        assert!(began.elapsed() < Duration::from_secs(60), "and comes up again");
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    sending.abort();
}

#[tokio::test]
async fn a_mail_server_that_says_nothing_is_given_up_and_tried_again() {
    let silent = Silent::start();
    let mut courier = mail_at(silent.address);
    courier.mail.as_mut().unwrap().timeout = Duration::from_millis(500);
    let app = app_that_sends(courier).await;
    for n in 0..20 {
        owe_mail(&app, &format!("n{n}@acme.example")).await;
    }
    let round = async || {
        let round = round(&app, Channel::Mail);
        let ended = tokio::time::timeout(Duration::from_secs(30), round).await;
        ended.expect("the round ends")
    };
    assert_eq!(round().await, 20);
    assert_eq!(
        silent.connections.load(Ordering::SeqCst),
        8,
        "those under way at once: the others are left for the next round"
    );
    let tried = "SELECT count(*) FROM delivery WHERE attempts = 1 AND state = 'owed' AND last_error LIKE '%the mail \
                 server did not end the conversation%'";
    assert_eq!(app.count(tried), 8, "what was not tried does not count");
    app.advance(CLAIMED.max(SignedDuration::from_secs(WAITS_SECS[0])));
    assert_eq!(round().await, 20, "and comes up again");
    assert_eq!(silent.connections.load(Ordering::SeqCst), 16);
}

/// A delivery's number is free once it is deleted, and the next one gets it.
#[tokio::test]
async fn an_attempt_that_fails_after_its_delivery_was_erased_is_noted_on_no_other() {
    let server = MailServer::start();
    let app = app_with_mail(&server).await;
    owe_mail(&app, "erased@acme.example").await;
    server.be_mute(true);
    let services = Arc::clone(&app.services);
    let sending = tokio::spawn(async move { send_due(&services, Channel::Mail).await });
    let began = Instant::now();
    while server.received().is_empty() {
        assert!(began.elapsed() < Duration::from_secs(60), "it is being sent");
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    app.execute("DELETE FROM delivery").await;
    app.advance(SignedDuration::from_secs(1));
    owe_mail(&app, "dev@acme.example").await;
    let entries = app.trail().len();
    server.say_next(["550 5.1.1 User unknown"]);
    server.be_mute(false);
    assert_eq!(sending.await.unwrap().unwrap(), 1);
    assert_eq!(state(&app), (DeliveryState::Owed, 0, None));
    assert_eq!(app.trail().len(), entries, "nothing that is owed was given up");
    assert_eq!(round(&app, Channel::Mail).await, 1);
    assert_eq!(state(&app), (DeliveryState::Sent, 1, None));
}
