//! Deliveries of the real binary: killed at the worst moment, and seen from the command line.

#[path = "../api/deliveries/receivers.rs"]
#[expect(dead_code, reason = "the API's tests need more of it")]
mod receivers;

use std::net::TcpListener;
use std::process::{Command, Stdio};
use std::time::Duration;

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
    let demo = desk.demo();
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

    let again = desk.demo();
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
    server.answer_next([550]);
    let desk = Desk::new();
    configure(&desk, server.address.port());
    let demo = desk.demo();
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
    server.answer_next([550]);
    let said = desk.told(1, &["deliveries", "retry", "--send"]);
    assert!(said.contains("1 failed: ") && said.contains("not now"), "{said}");
    let done = desk.json(&["deliveries", "retry", "--send", "--json"]);
    assert_eq!(done, json!({ "again": 1, "tried": 1, "failed": [], "open": 0 }));
    assert_eq!(server.received().len(), 4);
    assert_eq!(desk.json(&["deliveries", "retry", "--json"])["again"], 0);
}

/// The mail server accepts connections, sends nothing, and closes them after some seconds.
#[test]
fn sending_that_takes_long_says_so_and_a_signal_ends_it_in_good_order() {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = listener.local_addr().unwrap().port();
    let desk = Desk::new();
    // No mail server listens there.
    configure(&desk, 1);
    let demo = desk.demo();
    assert_eq!(demo.paste(&demo.line("curl -sS -X POST")), RESET_DONE);
    demo.stop();
    configure(&desk, port);
    let owed = desk.json(&["deliveries", "list", "--json"]);
    let ids: Vec<_> = owed
        .as_array()
        .unwrap()
        .iter()
        .map(|delivery| delivery["id"].as_str().unwrap())
        .collect();
    assert_eq!(ids.len(), 2, "{owed:#}");

    let retry = [&["deliveries", "retry", "--send"], &ids[..]].concat();
    let mut command = desk.command(&retry);
    let sending = command.stdout(Stdio::piped()).stderr(Stdio::piped());
    let sending = sending.spawn().unwrap();
    let connections: Vec<_> = ids.iter().map(|_| listener.accept().unwrap()).collect();
    let pid = sending.id().to_string();
    let signalled = Command::new("kill").args(["-s", "TERM", &pid]).status();
    assert!(signalled.unwrap().success());
    std::thread::sleep(Duration::from_secs(6));
    drop((connections, listener));
    let output = sending.wait_with_output().unwrap();
    let said = String::from_utf8(output.stderr).unwrap();
    assert_eq!(output.status.code(), Some(1), "{said}");
    assert!(said.contains("stopping after this step"), "{said}");
    assert!(said.contains("deliveries: 1 of 2"), "{said}");
    assert!(said.contains("2 failed: "), "{said}");
    let still = desk.json(&["deliveries", "list", "--state", "owed", "--json"]);
    assert_eq!(still.as_array().unwrap().len(), 2, "{still:#}");
}
