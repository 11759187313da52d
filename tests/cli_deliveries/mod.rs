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
    let first = server.wait_for(1).remove(0);
    demo.signal("KILL");
    demo.wait();
    drop(demo);
    server.be_mute(false);

    let owed = desk.json(&["deliveries", "list", "--json"]);
    println!("{owed:#}");
    assert_eq!(owed.as_array().unwrap().len(), 1);
    assert_eq!(
        (&owed[0]["state"], &owed[0]["channel"]),
        (&json!("owed"), &json!("mail"))
    );
    let name = owed[0]["id"].as_str().unwrap();
    assert_eq!(first.header("Message-ID"), format!("<{name}@appliance.example>"));

    let again = desk.serve(&["demo", "--listen", "127.0.0.1:0"]);
    let second = server.wait_for(2).remove(1);
    again.stop();
    assert_eq!(first.header("Message-ID"), second.header("Message-ID"));
    assert_eq!(desk.json(&["deliveries", "list", "--json"]), json!([]));
    let sent = desk.json(&["deliveries", "list", "--state", "sent", "--json"]);
    assert_eq!((&sent[0]["id"], &sent[0]["attempts"]), (&json!(name), &json!(1)));
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
    server.wait_for(1);
    demo.stop();
    let dead = desk.json(&["deliveries", "list", "--state", "dead", "--json"]);
    println!("{}", desk.ok(&["deliveries", "list"]));
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
    let done = desk.json(&["deliveries", "retry", "--send", "--json"]);
    assert_eq!(done, json!({ "again": 1, "tried": 1, "open": 0 }));
    assert_eq!(server.received().len(), 2);
    assert_eq!(desk.json(&["deliveries", "retry", "--json"])["again"], 0);
}
