//! A witness directory that hangs, as one on another machine may: everything else goes on.

use std::fs;
use std::path::Path;
use std::process::Command;
use std::sync::Arc;
use std::time::Duration;

use latchkey::app::App;
use latchkey::config::Config;
use latchkey::domain::account::OrganizationSettings;
use latchkey::service::administration::{NewOrganization, create_organization};
use latchkey::service::deliveries::{Channel, send_due};
use latchkey::service::{Services, Settings, trail};
use tokio::net::TcpListener;
use tokio::time::timeout;

use crate::deliveries::mail_to;
use crate::deliveries::receivers::MailServer;
use crate::support::{DEVELOPER, Setup, TestApp};

const FOR_EVER: Duration = Duration::from_secs(120);

/// From the next checkpoint on. Opening a FIFO blocks until somebody opens its other end.
async fn hang(services: &Services, witness: &Path) {
    trail::checkpoint(services).await.unwrap();
    let log = fs::read_dir(witness).unwrap().next().unwrap().unwrap().path();
    let size = trail::size(services).unwrap();
    let files = (size + 1..size + 50).map(|size| log.join(format!("{size:020}")));
    let made = Command::new("mkfifo").args(files).status().unwrap();
    assert!(made.success());
}

async fn create(services: &Services, slug: &str) {
    let new = NewOrganization {
        id: None,
        slug: slug.into(),
        name: slug.to_uppercase(),
        settings: OrganizationSettings::default(),
    };
    create_organization(services, new).await.unwrap();
}

#[tokio::test]
async fn mails_and_checkpoints_wait_for_no_witness() {
    let (server, witness) = (MailServer::start(), tempfile::tempdir().unwrap());
    let mut settings = Settings {
        mail: true,
        ..Settings::default()
    };
    settings.trail.witness_dir = Some(witness.path().to_owned());
    let app = TestApp::with(Setup {
        settings,
        courier: mail_to(&server),
        ..Setup::default()
    })
    .await;
    hang(&app.services, witness.path()).await;
    let goes_on = async {
        app.admin().await.reset(DEVELOPER).await.assert_ok();
        assert_eq!(send_due(&app.services, Channel::Mail).await.unwrap(), 1);
        assert!(server.wait_for(1)[0].text.contains("c2sp.org/tlog-proof@v1"));
        for _ in 0..10 {
            app.admin().await.reset(DEVELOPER).await;
            let answer = app.admin().await.get("/api/v1/audit-logs/checkpoint").await;
            assert_eq!(answer.status.as_u16(), 200, "{}", answer.text);
        }
    };
    timeout(FOR_EVER, goes_on).await.expect("nothing waits");
}

#[tokio::test]
async fn a_stop_waits_for_no_witness() {
    let (data, witness) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let mut config = Config::for_data_dir(data.path());
    config.settings.trail.witness_dir = Some(witness.path().to_owned());
    let app = App::open(config).unwrap();
    let services = Arc::clone(&app.services);
    create(&services, "acme").await;
    hang(&services, witness.path()).await;
    create(&services, "globex").await;
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let served = timeout(FOR_EVER, app.serve(listener, async {})).await;
    served.expect("it ends").unwrap();
    let signed = trail::checkpoint(&services).await.unwrap();
    assert_eq!(signed.size, trail::size(&services).unwrap());
}
