//! Deliveries of the real binary: killed at the worst moment, and seen from the command line.

#[path = "../api/deliveries/receivers.rs"]
#[expect(dead_code, reason = "the API's tests need more of it")]
mod receivers;

use serde_json::json;

use crate::cli_support::{Desk, RESET_DONE};
use receivers::MailServer;

fn configure(desk: &Desk, port: u16) {
    let config = format!(
        "data_dir = \"latchkey-demo\"\n[mail]\nhost = \"127.0.0.1\"\nport = {port}\ntls = \"none\"\n\
         from = \"Latchkey <mfa@appliance.example>\"\n"
    );
    std::fs::write(desk.path("latchkey.toml"), config).unwrap();
}

#[test]
fn a_mail_that_was_taken_but_not_confirmed_when_the_server_was_killed_is_sent_again_under_its_name() {
    let server = MailServer::start();
    let desk = Desk::new();
    configure(&desk, server.address.port());
    server.be_mute(true);
    let demo = desk.serve(&["demo", "--listen", "127.0.0.1:0"]);
    let curl = demo.line("curl -sS -X POST");
    assert_eq!(demo.paste(&curl), RESET_DONE);
    // The notice that every reset owes, and the one of the sample's policy.
    let first = server.wait_for(2);
    demo.signal("KILL");
    demo.wait();
    drop(demo);
    server.be_mute(false);

    let owed = desk.json(&["deliveries", "list", "--json"]);
    println!("{owed:#}");
    let owed = owed.as_array().unwrap();
    assert_eq!(owed.len(), 2);
    for delivery in owed {
        assert_eq!(
            (&delivery["state"], &delivery["channel"], &delivery["kind"]),
            (&json!("owed"), &json!("mail"), &json!("USER_MFA_RESET"))
        );
    }
    let mut names: Vec<_> = owed
        .iter()
        .map(|delivery| delivery["id"].as_str().unwrap())
        .collect();
    names.sort_unstable();
    let ids = |mails: &[receivers::Received]| {
        let mut ids: Vec<_> = mails
            .iter()
            .map(|mail| mail.header("Message-ID").to_owned())
            .collect();
        ids.sort_unstable();
        ids
    };
    let expected: Vec<_> = names
        .iter()
        .map(|name| format!("<{name}@appliance.example>"))
        .collect();
    assert_eq!(ids(&first), expected);

    let again = desk.serve(&["demo", "--listen", "127.0.0.1:0"]);
    let second = server.wait_for(4).split_off(2);
    again.stop();
    assert_eq!(ids(&second), expected);
    assert_eq!(desk.json(&["deliveries", "list", "--json"]), json!([]));
    let sent = desk.json(&["deliveries", "list", "--state", "sent", "--json"]);
    assert_eq!(sent.as_array().unwrap().len(), 2);
    for delivery in sent.as_array().unwrap() {
        assert!(names.contains(&delivery["id"].as_str().unwrap()));
        assert_eq!(delivery["attempts"], 1);
    }
}

#[test]
fn what_could_not_be_sent_is_listed_and_tried_again_from_the_command_line() {
    let server = MailServer::start();
    server.answer_next([554]);
    let desk = Desk::new();
    configure(&desk, server.address.port());
    let demo = desk.serve(&["demo", "--listen", "127.0.0.1:0"]);
    let curl = demo.line("curl -sS -X POST");
    assert_eq!(demo.paste(&curl), RESET_DONE);
    server.wait_for(2);
    demo.stop();
    let dead = desk.json(&["deliveries", "list", "--state", "dead", "--json"]);
    // Which of an incident's deliveries it is, can be told without its text.
    let listed = desk.ok(&["deliveries", "list"]);
    println!("{listed}");
    let to = dead[0]["recipient"].as_str().unwrap();
    assert!(to.ends_with("@juniper.example"), "{dead}");
    assert!(
        listed.contains("USER_MFA_RESET") && listed.contains(to),
        "{listed}"
    );
    assert_eq!(
        (&dead[0]["state"], &dead[0]["attempts"]),
        (&json!("dead"), &json!(1))
    );
    assert!(
        dead[0]["lastError"].as_str().unwrap().contains("not now"),
        "{dead}"
    );
    let unknown = desk.run(&["deliveries", "retry", "msg_00"]);
    assert_eq!(unknown.status.code(), Some(5));
    server.answer_next([554]);
    let failed = desk.run(&["deliveries", "retry", "--send"]);
    assert_eq!(failed.status.code(), Some(1));
    let said = String::from_utf8(failed.stderr).unwrap();
    assert!(said.contains("1 failed: ") && said.contains("not now"), "{said}");
    let done = desk.json(&["deliveries", "retry", "--send", "--json"]);
    assert_eq!(done, json!({ "again": 1, "tried": 1, "failed": [], "open": 0 }));
    assert_eq!(server.received().len(), 4);
    assert_eq!(desk.json(&["deliveries", "retry", "--json"])["again"], 0);
}
