//! What the operator is told of orders about policies: the same whether the server runs or not.

use std::fs;
use std::process::Stdio;

use serde_json::{Value, json};

use super::cli_support::{Desk, Server, fixture};
use super::guests::denying;

const CONFIG: &str = r#"{"prefixes":["HD-"]}"#;

fn with_acme_and_globex() -> Desk {
    let desk = Desk::with_acme();
    desk.ok(&["org", "create", "globex"]);
    desk
}

fn serve(desk: &Desk) -> Server {
    let server = desk.server();
    server.exchange("GET", "/health/live", None, "");
    server
}

fn bound(desk: &Desk, args: &[&str]) -> String {
    let bound = desk.json(&[&["plugin", "bind"], args, &["--json"]].concat());
    bound["binding"].as_str().unwrap().to_owned()
}

#[test]
fn a_refusal_reads_the_same_whether_the_server_runs_or_not() {
    let desk = with_acme_and_globex();
    desk.ok(&["plugin", "install", &fixture("ticket-required")]);
    desk.ok(&["plugin", "install", &fixture("second-admin")]);
    let id = bound(&desk, &["ticket-required", "--org", "acme", "--config", CONFIG]);
    let orders: [(&[&str], &str); 4] = [
        (
            &["switch", &id, "second-admin"],
            "latchkey: Validation failed\n  plugin: is a version of second-admin",
        ),
        (
            &[
                "bind",
                "ticket-required",
                "--org",
                "acme",
                "--config",
                r#"{"prefix":1}"#,
            ],
            "latchkey: Validation failed\n  config: ",
        ),
        (
            &["bind", "ticket-required", "--org", "ACME", "--config", CONFIG],
            "latchkey: There is no organisation ACME; latchkey org list",
        ),
        (
            &["uninstall", "nobody"],
            "latchkey: Plugin not found with id: nobody",
        ),
    ];
    let stopped = orders.map(|(args, beginning)| {
        let said = desk.plugin_told(5, args);
        assert!(said.starts_with(beginning), "{args:?}: {said}");
        said
    });
    let server = serve(&desk);
    let running = orders.map(|(args, _)| desk.plugin_told(5, args));
    assert_eq!(running, stopped);
    server.stop();

    let said = desk.plugin_told(2, &["bind", "ticket-required"]);
    assert!(said.contains("--org") && said.contains("--every-org"), "{said}");
    let said = desk.plugin_told(2, &["change", &id, "--position", "99999999999"]);
    assert!(said.contains("2147483647"), "{said}");
    let said = desk.plugin_told(5, &["change", &id, "--config", "nosuch.json"]);
    assert!(said.contains("there is no file nosuch.json"), "{said}");
    fs::write(desk.path("config.json"), r#"{"prefixes":["INC-"]}"#).unwrap();
    let from_stdin = desk
        .command(&["plugin", "change", &id, "--config", "-", "--json"])
        .stdin(Stdio::from(fs::File::open(desk.path("config.json")).unwrap()))
        .output()
        .unwrap();
    let changed: Value = serde_json::from_slice(&from_stdin.stdout).unwrap();
    assert_eq!(changed["config"], json!({ "prefixes": ["INC-"] }));

    let said = desk.ok(&["plugin", "switch", &id, "ticket-required"]);
    assert!(said.starts_with(&format!("Binding {id} already asks")), "{said}");
    // The version before is told by what tells two of one number apart.
    let now = desk.json(&["plugin", "list", "--json"])["bindings"][0].clone();
    assert_eq!(now["previousDigest"], now["digest"], "{now}");
    assert_ne!(now["previousConfigDigest"], now["configDigest"], "{now}");
    let config = &now["previousConfigDigest"].as_str().unwrap()[..12];
    assert!(said.contains("Previous: 1.0.0 (file "), "{said}");
    assert!(
        said.contains(config) && said.contains("latchkey plugin rollback"),
        "{said}"
    );
}

#[test]
fn a_plugin_is_removed_once_nothing_uses_it() {
    let desk = with_acme_and_globex();
    let list = |more: &[&str]| desk.ok(&[&["plugin", "list"], more].concat());
    let empty = "Installed\nNone: latchkey plugin install FILE\n\nAsked at a reset, in this order\nNone: ";
    assert!(list(&[]).starts_with(empty), "{}", list(&[]));
    let check = |running: &str| {
        let install = |version, whose: &[&str]| {
            fs::write(desk.path("guest.wasm"), denying(version, "no")).unwrap();
            let args = [&["plugin", "install", "guest.wasm", "--json"], whose].concat();
            desk.json(&args)["digest"].as_str().unwrap().to_owned()
        };
        let nodes = install("1.0.0", &[]);
        let own = install("1.0.0", &["--org", "acme"]);
        assert_eq!(nodes, own);
        let names = |more: &[&str]| {
            let lists = desk.json(&[&["plugin", "list", "--json"], more].concat());
            let owners = lists["plugins"].as_array().unwrap().iter();
            owners
                .map(|plugin| plugin["organization"].clone())
                .collect::<Vec<_>>()
        };
        assert_eq!(
            names(&["--org", "acme"]),
            [json!("acme"), Value::Null],
            "{running}"
        );
        assert_eq!(names(&["--org", "globex"]), [Value::Null], "{running}");
        desk.plugin_told(5, &["list", "--org", "nobody"]);
        let shown = list(&[]);
        assert!(
            shown.contains("(every organisation)") && shown.contains("acme"),
            "{shown}"
        );

        let id = bound(&desk, &["guest", "--org", "globex"]);
        let said = desk.plugin_told(5, &["uninstall", "guest"]);
        assert!(said.contains(&id), "{running}: {said}");
        assert_eq!(names(&[]).len(), 2, "{running}");
        desk.ok(&["plugin", "uninstall", "guest", "--org", "acme"]);
        desk.ok(&["plugin", "unbind", &id]);
        let newer = install("2.0.0", &[]);
        let said = desk.plugin_told(5, &["uninstall", "guest"]);
        assert!(
            said.contains(&nodes) && said.contains(&newer),
            "{running}: {said}"
        );
        let gone = desk.json(&["plugin", "remove", &newer[..12], "--json"]);
        assert_eq!((&gone["name"], &gone["digest"]), (&json!("guest"), &json!(newer)));
        let said = desk.ok(&["plugin", "uninstall", "guest"]);
        assert_eq!(
            said,
            format!("guest 1.0.0 removed, SHA-256 {nodes}\n"),
            "{running}"
        );
        assert_eq!(names(&[]), Vec::<Value>::new(), "{running}");
    };
    check("while none runs");
    let server = serve(&desk);
    check("while a server runs");
    server.stop();
    let trail = desk.ok(&["audit", "export"]);
    let removed = trail.lines().filter(|line| line.contains("POLICY_PLUGIN_REMOVE"));
    assert_eq!(removed.count(), 2 * 3, "each on the record");
}
