//! Who is told of passkeys: their user of each that comes and goes; the admins, too, of a copy.

use latchkey::domain::account::OrganizationSettings;
use serde_json::json;

use super::receivers::MailServer;
use super::{mails, users_app_with_mail};
use crate::account::authenticator::Authenticator;
use crate::account::passkeys::{log_in, with_passkey};

const NEW: &str = "new@acme.example";

#[tokio::test]
async fn the_user_is_told_of_a_new_passkey_and_everybody_of_a_copy() {
    let server = MailServer::start();
    let app = users_app_with_mail(&server, OrganizationSettings::default()).await;
    let mut device = Authenticator::new(1);
    device.relying_party = "mfa.appliance.example".into();
    device.origin = "https://mfa.appliance.example".into();
    with_passkey(&app, &mut device).await;
    let told = mails(&app, &server).await;
    assert_eq!(told.len(), 1);
    assert_eq!(told[0].to, [NEW]);
    assert_eq!(told[0].header("Subject"), "Your second factor was changed (ACME)");
    assert!(
        told[0]
            .text
            .contains("registered the passkey \"Laptop\" for your account"),
        "{}",
        told[0].text
    );
    let (_, link) = told[0]
        .text
        .split_once("https://mfa.appliance.example/not-me#")
        .expect("a link");

    let mut copy = device.clone();
    log_in(&app, NEW, &mut device).await.ok();
    log_in(&app, NEW, &mut copy).await.refused(401, "Invalid passkey");
    let told = mails(&app, &server).await;
    let mut to: Vec<_> = told.iter().flat_map(|mail| mail.to.clone()).collect();
    to.sort();
    assert_eq!(
        to,
        [
            "admin@acme.example",
            "boss@acme.example",
            NEW,
            "second@acme.example",
            "security@acme.example"
        ]
    );
    for mail in &told {
        println!("Subject: {}\n\n{}\n", mail.header("Subject"), mail.text);
        assert!(mail.text.contains("the passkey \"Laptop\""), "{}", mail.text);
        assert_eq!(mail.text.contains("/not-me#"), mail.to == [NEW]);
    }

    // The link of the first notice locks the account that the attacker has.
    let token = link.split_whitespace().next().expect("a token");
    app.post("/auth/not-me", None, json!({ "token": token }))
        .await
        .ok();
    assert!(app.find(NEW).locked.is_some());
}
