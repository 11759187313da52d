//! What is owed reaches a real mail server and a real webhook receiver: at least once, under one name.

mod not_me;
mod outages;
mod passkeys;
pub mod receivers;
mod webhooks;

use std::net::SocketAddr;
use std::ops::ControlFlow;
use std::sync::atomic::{AtomicUsize, Ordering};

use jiff::SignedDuration;
use latchkey::courier::{Courier, CourierConfig, MailConfig, MailTls, Reach, SyslogMessage, SyslogTarget};
use latchkey::domain::account::OrganizationSettings;
use latchkey::domain::audit::{Content, check_receipt};
use latchkey::service::deliveries::{
    self, Channel, DeliveryState, OwedDelivery, WAITS_SECS, list_deliveries, send_all_due, send_due,
};
use latchkey::service::{Settings, notices, trail};
use serde_json::json;
use zeroize::Zeroizing;

use crate::account::app::App;
use crate::support::{Setup, TestApp};
use receivers::{MAIL_PASSWORD, MailServer, Received, Receiver};

pub fn mail_to(server: &MailServer) -> CourierConfig {
    mail_at(server.address)
}

fn mail_at(address: SocketAddr) -> CourierConfig {
    let mail = MailConfig {
        host: "127.0.0.1".into(),
        port: address.port(),
        tls: MailTls::None,
        credentials: None,
        from: MailConfig::parse_from("Latchkey <mfa@appliance.example>").unwrap(),
        ca: None,
        timeout: MailConfig::TIMEOUT,
    };
    CourierConfig {
        mail: Some(mail),
        ..CourierConfig::default()
    }
}

/// An app of users that sends mail to that server, to acme's security contact too.
async fn users_app_with_mail(server: &MailServer, organization: OrganizationSettings) -> App {
    App::with(Setup {
        settings: sending(),
        acme: OrganizationSettings {
            security_contact: Some("security@acme.example".into()),
            ..organization
        },
        courier: mail_to(server),
        ..Setup::default()
    })
    .await
}

/// The mails that are sent now.
async fn mails(app: &App, server: &MailServer) -> Vec<Received> {
    let before = server.received().len();
    send_due(&app.services, Channel::Mail).await.unwrap();
    server.received()[before..].to_vec()
}

/// A courier that calls receivers of this machine.
pub fn calls_here() -> CourierConfig {
    CourierConfig {
        webhooks: Reach::new(&["127.0.0.1".to_owned()], vec!["127.0.0.0/8".parse().unwrap()]),
        ..CourierConfig::default()
    }
}

/// An app that sends mail to that server.
pub async fn app_with_mail(server: &MailServer) -> TestApp {
    app_that_sends(mail_to(server)).await
}

/// Mail is sent, with links to this address.
fn sending() -> Settings {
    Settings {
        mail: true,
        public_url: "https://mfa.appliance.example".into(),
        ..Settings::default()
    }
}

/// An app with these couriers that sends mail.
async fn app_that_sends(courier: CourierConfig) -> TestApp {
    TestApp::with(Setup {
        settings: sending(),
        courier,
        ..Setup::default()
    })
    .await
}

/// Owes somebody a mail.
async fn owe_mail(app: &TestApp, to: &str) {
    let find = |db: &_| latchkey::store::accounts::find_organization(db, app.acme);
    let organization = app.services.store.read(find).unwrap().unwrap();
    let mail = notices::mail(&app.services, &organization, to, "Hello", "Text\n");
    owe(app, mail.unwrap()).await;
}

async fn app_with_webhooks(hosts: &[&str], networks: &[&str]) -> TestApp {
    let hosts: Vec<_> = hosts.iter().map(ToString::to_string).collect();
    let networks = networks.iter().map(|n| n.parse().unwrap()).collect();
    TestApp::with(Setup {
        courier: CourierConfig {
            webhooks: Reach::new(&hosts, networks),
            ..CourierConfig::default()
        },
        ..Setup::default()
    })
    .await
}

/// Owes something in a transaction of its own.
async fn owe(app: &TestApp, owed: OwedDelivery) {
    let at = app.services.clock.now();
    app.services
        .store
        .write(move |tx| deliveries::owe(tx, std::slice::from_ref(&owed), 0, at))
        .await
        .unwrap();
}

fn webhook(app: &TestApp, url: &str) -> OwedDelivery {
    let at = app.services.clock.now();
    deliveries::webhook(
        Some(app.acme),
        url,
        "user.mfa.reset",
        at,
        json!({"userId": "u-1"}),
    )
}

async fn round(app: &TestApp, channel: Channel) -> usize {
    send_due(&app.services, channel).await.unwrap()
}

fn state(app: &TestApp) -> (DeliveryState, u32, Option<String>) {
    let all = [DeliveryState::Owed, DeliveryState::Sent, DeliveryState::Dead];
    let found = list_deliveries(&app.services, &all, 1).unwrap().remove(0);
    (found.state, found.attempts, found.last_error)
}

#[tokio::test]
async fn the_user_is_told_of_a_reset_by_mail_and_what_was_said_is_forgotten() {
    let server = MailServer::start();
    let app = app_with_mail(&server).await;
    app.admin().await.reset(app.developer.id).await.assert_ok();
    assert_eq!(server.received().len(), 0, "owed with the reset, sent after it");
    assert_eq!(round(&app, Channel::Mail).await, 1);
    let mail = server.wait_for(1).remove(0);
    println!("{}\n\n{}", mail.head, mail.text);
    assert_eq!(mail.to, ["dev@acme.example"]);
    assert_eq!(mail.header("From"), "Latchkey <mfa@appliance.example>");
    assert_eq!(mail.header("Subject"), "Your second factor was reset (ACME)");
    assert_eq!(mail.header("Auto-Submitted"), "auto-generated");
    for part in [
        "admin (admin@acme.example)",
        "2026-02-18T10:30:00Z",
        "from an unknown address",
    ] {
        assert!(mail.text.contains(part), "{part} in {}", mail.text);
    }
    assert_eq!(state(&app), (DeliveryState::Sent, 1, None));
    assert_eq!(app.count("SELECT count(*) FROM delivery WHERE payload = '{}'"), 1);
    assert_eq!(round(&app, Channel::Mail).await, 0, "once is enough");
    app.advance(SignedDuration::from_hours(8 * 24));
    crate::keeping::tidy_by_a_settled_clock(&app).await;
    assert_eq!(app.count("SELECT count(*) FROM delivery"), 0);
}

#[tokio::test]
async fn a_mail_that_was_not_taken_is_sent_again_under_the_same_name() {
    let server = MailServer::start();
    let app = app_with_mail(&server).await;
    app.admin().await.reset(app.developer.id).await.assert_ok();
    server.answer_next([451]);
    round(&app, Channel::Mail).await;
    let (owed, attempts, why) = state(&app);
    assert_eq!((owed, attempts), (DeliveryState::Owed, 1));
    assert!(why.unwrap().contains("not now"));
    assert_eq!(round(&app, Channel::Mail).await, 0, "not before its time");
    app.advance(SignedDuration::from_secs(WAITS_SECS[0]));
    assert_eq!(round(&app, Channel::Mail).await, 1);
    assert_eq!(state(&app), (DeliveryState::Sent, 2, None));
    let [first, second] = [0, 1].map(|n| server.received()[n].header("Message-ID").to_owned());
    assert_eq!(first, second);
    assert!(
        first.starts_with("<msg_") && first.ends_with("@appliance.example>"),
        "{first}"
    );
}

#[tokio::test]
async fn after_the_last_wait_it_is_given_up_with_an_entry_and_can_be_tried_again() {
    let server = MailServer::start();
    let app = app_with_mail(&server).await;
    app.admin().await.reset(app.developer.id).await.assert_ok();
    server.answer_next(std::iter::repeat_n(451, WAITS_SECS.len() + 1));
    for secs in WAITS_SECS {
        round(&app, Channel::Mail).await;
        assert_eq!(state(&app).0, DeliveryState::Owed);
        app.advance(SignedDuration::from_secs(secs));
    }
    round(&app, Channel::Mail).await;
    assert_eq!(state(&app).0, DeliveryState::Dead);
    let entry = app.last_entry();
    assert_eq!(
        (&entry["eventType"], &entry["result"]),
        (&json!("DELIVERY_DEAD"), &json!("FAILURE"))
    );
    assert_eq!(entry["details"]["attempts"], 12);
    assert_eq!(entry["details"]["channel"], "mail");
    assert!(!entry.to_string().contains("dev@acme.example"), "{entry}");
    app.advance(SignedDuration::from_hours(24));
    assert_eq!(round(&app, Channel::Mail).await, 0);

    let services = app.services.clone();
    let again = tokio::task::spawn_blocking(move || deliveries::retry_deliveries(&services, &[]));
    assert_eq!(again.await.unwrap().unwrap(), 1);
    assert_eq!(app.last_entry()["eventType"], "DELIVERY_RETRY");
    round(&app, Channel::Mail).await;
    assert_eq!(state(&app).0, DeliveryState::Sent);
}

#[tokio::test]
async fn a_mailbox_that_is_not_there_is_given_up_at_once() {
    let server = MailServer::start();
    let app = app_with_mail(&server).await;
    owe_mail(&app, "nobody@acme.example").await;
    round(&app, Channel::Mail).await;
    let (dead, attempts, why) = state(&app);
    assert_eq!((dead, attempts), (DeliveryState::Dead, 1));
    assert!(why.unwrap().contains("Mailbox unavailable"));
}

/// A server that forgets the appliance's address, or does not know the sender's domain, says so in words that are
/// permanent for the protocol; its operator can mend it.
#[tokio::test]
async fn a_server_that_relays_nothing_for_the_appliance_costs_no_notice() {
    let server = MailServer::start();
    let app = app_with_mail(&server).await;
    for answer in [
        "554 5.7.1 Relay access denied",
        "550 5.7.1 Unable to relay",
        "553 5.1.8 Sender domain does not exist",
        "554 not now",
    ] {
        owe_mail(&app, "dev@acme.example").await;
        server.say_next([answer]);
        round(&app, Channel::Mail).await;
        let (owed, attempts, why) = state(&app);
        assert_eq!((owed, attempts), (DeliveryState::Owed, 1), "{answer}: {why:?}");
        app.advance(SignedDuration::from_secs(WAITS_SECS[0]));
        assert_eq!(round(&app, Channel::Mail).await, 1);
        assert_eq!(state(&app), (DeliveryState::Sent, 2, None));
    }
    owe_mail(&app, "dev@acme.example").await;
    server.say_next(["554 5.1.1 User unknown"]);
    round(&app, Channel::Mail).await;
    assert_eq!(state(&app).0, DeliveryState::Dead, "this is about the recipient");
}

#[tokio::test]
async fn mail_goes_over_tls_with_a_password_to_a_server_with_a_certificate_of_ones_own() {
    let made = rcgen::generate_simple_self_signed(["localhost".to_owned()]).unwrap();
    let key = made.signing_key.serialize_der().try_into().unwrap();
    let server = MailServer::with_tls(made.cert.der().clone(), key);
    let config = |password: &str, ca: Option<Vec<u8>>| {
        let plain = mail_to(&server).mail.unwrap();
        let mail = MailConfig {
            host: "localhost".into(),
            tls: MailTls::Starttls,
            credentials: Some(("latchkey".into(), Zeroizing::new(password.into()))),
            ca,
            ..plain
        };
        CourierConfig {
            mail: Some(mail),
            ..CourierConfig::default()
        }
    };
    let mail = latchkey::courier::Mail {
        to: "dev@acme.example".into(),
        subject: "Hello".into(),
        body: "Text\n".into(),
    };
    let at = jiff::Timestamp::UNIX_EPOCH;
    let ca = Some(made.cert.pem().into_bytes());
    let send = |config: CourierConfig| {
        let mail = mail.clone();
        async move { Courier::new(&config).unwrap().send_mail("msg_1", &mail, at).await }
    };
    let stranger = send(config(MAIL_PASSWORD, None)).await.unwrap_err();
    assert!(
        stranger.to_string().to_lowercase().contains("certificate"),
        "{stranger}"
    );
    // The operator can mend a password: the mail is not given up.
    let wrong = send(config("another", ca.clone())).await.unwrap_err();
    assert!(
        matches!(wrong, latchkey::courier::Undelivered::Later(_)),
        "{wrong}"
    );
    assert!(!wrong.to_string().contains("another"), "{wrong}");
    assert_eq!(server.received().len(), 0);
    send(config(MAIL_PASSWORD, ca)).await.unwrap();
    assert_eq!(server.received().len(), 1);
}

#[tokio::test]
async fn syslog_messages_are_read_by_a_parser_over_udp_tcp_and_a_socket() {
    use std::io::Read as _;
    let at = "2026-02-18T10:30:00.5Z".parse().unwrap();
    let parameters = [("user", "a \"quoted\" ]name\\".to_owned())];
    let message = SyslogMessage {
        at,
        severity: latchkey::courier::Severity::Notice,
        kind: "USER_MFA_RESET",
        data: Some(("latchkey@32473", &parameters)),
        text: "reset\nforged line: Grüße",
    };
    let courier = |target: &str| {
        let config = CourierConfig {
            syslog: Some(SyslogTarget::parse(target).unwrap()),
            ..CourierConfig::default()
        };
        Courier::new(&config).unwrap()
    };
    let check = |bytes: &[u8]| {
        let text = std::str::from_utf8(bytes).unwrap();
        println!("{text}");
        let read = syslog_rfc5424::parse_message(text).unwrap();
        assert_eq!(read.severity, syslog_rfc5424::SyslogSeverity::SEV_NOTICE);
        assert_eq!(read.facility, syslog_rfc5424::SyslogFacility::LOG_AUTHPRIV);
        assert_eq!(read.appname.as_deref(), Some("latchkey"));
        assert_eq!(read.msgid.as_deref(), Some("USER_MFA_RESET"));
        assert_eq!(read.timestamp, Some(1_771_410_600));
        assert_eq!(
            read.sd.find_tuple("latchkey@32473", "user").unwrap(),
            "a \"quoted\" ]name\\"
        );
        assert_eq!(
            read.msg.trim_start_matches('\u{feff}'),
            "reset forged line: Grüße"
        );
    };
    let udp = std::net::UdpSocket::bind("127.0.0.1:0").unwrap();
    courier(&format!("udp://{}", udp.local_addr().unwrap()))
        .write_syslog(&message)
        .await
        .unwrap();
    let mut buffer = [0; 2048];
    let length = udp.recv(&mut buffer).unwrap();
    check(&buffer[..length]);

    // One connection for many messages, and a new one when the other side ends it.
    let tcp = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let over_tcp = courier(&format!("tcp://{}", tcp.local_addr().unwrap()));
    let read_one = |stream: &mut std::net::TcpStream| {
        let mut digits = String::new();
        let mut byte = [0];
        loop {
            stream.read_exact(&mut byte).unwrap();
            match byte[0] {
                b' ' => break,
                digit => digits.push(digit.into()),
            }
        }
        let mut text = vec![0; digits.parse().unwrap()];
        stream.read_exact(&mut text).unwrap();
        check(&text);
    };
    for _ in 0..2 {
        over_tcp.write_syslog(&message).await.unwrap();
        over_tcp.write_syslog(&message).await.unwrap();
        let (mut stream, _) = tcp.accept().unwrap();
        read_one(&mut stream);
        read_one(&mut stream);
        drop(stream);
        tokio::time::sleep(std::time::Duration::from_millis(50)).await;
    }

    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("log");
    let datagrams = std::os::unix::net::UnixDatagram::bind(&path).unwrap();
    courier(&format!("unix:{}", path.display()))
        .write_syslog(&message)
        .await
        .unwrap();
    let length = datagrams.recv(&mut buffer).unwrap();
    check(&buffer[..length]);
    let nobody = courier("tcp://127.0.0.1:1").write_syslog(&message).await;
    assert!(matches!(nobody, Err(latchkey::courier::Undelivered::Later(_))));
}

#[tokio::test]
async fn the_notice_of_a_reset_proves_it_and_tells_nothing_more() {
    let server = MailServer::start();
    let app = app_with_mail(&server).await;
    let body = json!({ "reason": "a secret reason", "ticket": "HD-secret" });
    let path = crate::support::reset_path(crate::support::DEVELOPER);
    app.admin().await.post(&path, body).await.assert_ok();
    round(&app, Channel::Mail).await;
    let mail = server.wait_for(1).remove(0);
    let at = mail.text.find("c2sp.org/tlog-proof@v1").expect("a receipt");
    let keys = trail::log_keys(&app.services).await.unwrap();
    let checked = check_receipt(&mail.text[at..], &keys).unwrap();
    let leaf = checked.record.leaf().unwrap();
    assert_eq!(leaf.event_type, "USER_MFA_RESET");
    assert_eq!(leaf.resource, Some(("USER", crate::support::DEVELOPER)));
    let Content::Whole(entry) = &checked.record.content else {
        panic!("a receipt has its entry")
    };
    assert_eq!((entry.actor.data(), entry.subject.data()), (None, None));
    assert!(!mail.text.contains("HD-secret"), "{}", mail.text);
}

#[tokio::test]
async fn sending_on_demand_stops_between_two_rounds_and_the_rest_stays_owed() {
    let receiver = Receiver::start();
    let app = app_with_webhooks(&["127.0.0.1"], &["127.0.0.0/8"]).await;
    for _ in 0..10 {
        owe(&app, webhook(&app, &receiver.url())).await;
    }
    let (attempts, mut asked) = (AtomicUsize::new(0), 0);
    let attempted = || {
        attempts.fetch_add(1, Ordering::Relaxed);
    };
    let one_round = &mut || {
        asked += 1;
        if asked == 1 {
            ControlFlow::Continue(())
        } else {
            ControlFlow::Break(())
        }
    };
    let sent = send_all_due(&app.services, Channel::Webhook, &attempted, one_round);
    let sent = sent.await.unwrap();
    // A round sends at most four deliveries of one organisation.
    assert_eq!((sent.tried, attempts.load(Ordering::Relaxed)), (4, 4));
    assert_eq!(receiver.calls().len(), 4);
    assert_eq!(app.count("SELECT count(*) FROM delivery WHERE state = 'owed'"), 6);
    let to_the_end = &mut || ControlFlow::Continue(());
    let rest = send_all_due(&app.services, Channel::Webhook, &attempted, to_the_end);
    assert_eq!(rest.await.unwrap().tried, 6);
    assert_eq!(receiver.calls().len(), 10);
}
