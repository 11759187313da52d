//! What an operator's orders mean where plugins of several owners are called the same.

use std::fs;

use serde_json::Value;

use super::cli_support::Desk;
use super::guests::denying;
use sha2::{Digest as _, Sha256};

/// The digest of the file, installed for the node or for an organisation.
fn install(desk: &Desk, version: &'static str, org: Option<&str>) -> String {
    fs::write(desk.path("guest.wasm"), denying(version, "no")).unwrap();
    let mut args = vec!["plugin", "install", "guest.wasm", "--json"];
    args.extend(org.into_iter().flat_map(|org| ["--org", org]));
    desk.json(&args)["digest"].as_str().unwrap().to_owned()
}

fn bind(desk: &Desk, plugin: &str, whose: &[&str]) -> String {
    let bound = desk.json(&[&["plugin", "bind", plugin, "--json"], whose].concat());
    bound["binding"].as_str().unwrap().to_owned()
}

/// A tenant can call a plugin as they like. That must lead neither the emergency switch nor a new version
/// to the tenant's file.
#[test]
fn a_tenants_plugin_of_the_same_name_diverts_no_order() {
    let desk = Desk::with_acme();
    desk.ok(&["org", "create", "umbra"]);
    let nodes = install(&desk, "1.0.0", None);
    let everybodys = bind(&desk, "guest", &["--every-org"]);
    let acmes = bind(&desk, "guest", &["--org", "acme"]);
    let tenants = install(&desk, "9.0.0", Some("umbra"));
    let list = || desk.json(&["plugin", "list", "--json"]);
    let binding = |id: &str| {
        let bindings = list()["bindings"].as_array().unwrap().clone();
        bindings.into_iter().find(|binding| binding["id"] == id).unwrap()
    };
    let off = || -> Vec<String> {
        let plugins = list()["plugins"].as_array().unwrap().clone();
        let off = plugins.iter().filter(|plugin| plugin["disabled"] == true);
        off.map(|plugin| plugin["digest"].as_str().unwrap().to_owned())
            .collect()
    };
    let check = |running: &str, next: &'static str| {
        let said = desk.plugin_told(5, &["disable", "--plugin", "guest"]);
        for line in [
            format!("{nodes}  guest 1.0.0, installed by the node, asked by 2 bindings"),
            format!("{tenants}  guest 9.0.0, installed by umbra, asked by 0 bindings"),
        ] {
            assert!(said.contains(&line), "{running}: {line} in {said}");
        }
        assert!(said.contains("name one by its digest"), "{running}: {said}");
        assert_eq!(off(), Vec::<String>::new(), "{running}");
        desk.ok(&["plugin", "disable", "--plugin", &nodes]);
        assert_eq!(off(), std::slice::from_ref(&nodes), "{running}");
        assert_eq!(binding(&everybodys)["pluginDisabled"], true, "{running}");
        desk.ok(&["plugin", "enable", "--plugin", &nodes[..12]]);
        assert_eq!(off(), Vec::<String>::new(), "{running}");

        install(&desk, next, None);
        for id in [&everybodys, &acmes] {
            desk.ok(&["plugin", "switch", id, "guest"]);
            assert_eq!(binding(id)["version"], next, "{running}");
            desk.ok(&["plugin", "switch", id, &nodes[..12]]);
            assert_eq!(binding(id)["version"], "1.0.0", "{running}");
        }
        let said = desk.plugin_told(5, &["switch", &acmes, &tenants]);
        assert!(said.contains("Plugin not found"), "{running}: {said}");
        let said = desk.plugin_told(5, &["disable", "--plugin", "nobody"]);
        assert!(
            said.contains("Plugin not found with id: nobody"),
            "{running}: {said}"
        );
    };
    check("while none runs", "2.0.0");
    let server = desk.server();
    server.exchange("GET", "/health/live", None, ""); // by then it takes orders
    check("while a server runs", "3.0.0");
    server.stop();
}

/// The same file may be installed by the node and by an organisation: it is one plugin all the same.
#[test]
fn a_file_that_two_installed_is_one_plugin() {
    let desk = Desk::with_acme();
    let digest = install(&desk, "1.0.0", None);
    assert_eq!(install(&desk, "1.0.0", Some("acme")), digest);
    let id = bind(&desk, &digest[..12], &["--org", "acme"]);
    desk.ok(&["plugin", "disable", "--plugin", "guest"]);
    let bindings = desk.json(&["plugin", "list", "--json"])["bindings"].clone();
    assert_eq!(
        (&bindings[0]["id"], &bindings[0]["pluginDisabled"]),
        (&Value::from(id), &Value::from(true))
    );
}

/// Two files whose digests begin with the same four digits.
fn alike() -> [(&'static str, String); 2] {
    let mut seen = std::collections::HashMap::new();
    for n in 0.. {
        let version: &'static str = format!("1.0.{n}").leak();
        let digest = hex::encode(Sha256::digest(denying(version, "no")));
        if let Some(earlier) = seen.insert(digest[..4].to_owned(), (version, digest.clone())) {
            return [earlier, (version, digest)];
        }
    }
    unreachable!("there are no more than 65,536 beginnings")
}

#[test]
fn a_file_is_named_by_any_beginning_of_its_digest_that_no_other_has() {
    let desk = Desk::with_acme();
    let [(first, one), (second, two)] = alike();
    assert_eq!(install(&desk, first, None), one);
    bind(&desk, &one[..4], &["--every-org"]);
    for digits in [
        &one[..4],
        &one[..5].to_uppercase(),
        &format!("sha256:{}", &one[..7]),
    ] {
        desk.ok(&["plugin", "disable", "--plugin", digits]);
        desk.ok(&["plugin", "enable", "--plugin", digits]);
    }
    let said = desk.plugin_told(5, &["disable", "--plugin", &one[..3]]);
    assert!(
        said.contains("Plugin not found"),
        "three digits are too few: {said}"
    );
    assert_eq!(install(&desk, second, None), two);
    for args in [
        &["disable", "--plugin", &one[..4]][..],
        &["bind", &one[..4], "--every-org"],
    ] {
        let said = desk.plugin_told(5, args);
        for line in [format!("{one}  guest {first}"), format!("{two}  guest {second}")] {
            assert!(said.contains(&line), "{line} in {said}");
        }
    }
}

/// The trail says by its digest which configuration decided; the text behind it can still be read, and two that
/// are called the same are told apart.
#[test]
fn an_earlier_configuration_is_printed_by_its_digest() {
    let desk = Desk::with_acme();
    install(&desk, "1.0.0", None);
    fs::write(desk.path("first.json"), r#"{"rule":"one"}"#).unwrap();
    let id = bind(&desk, "guest", &["--every-org", "--config", "first.json"]);
    let digest = hex::encode(Sha256::digest(r#"{"rule":"one"}"#));
    let listed = desk.ok(&["plugin", "list"]);
    assert!(listed.contains(&digest[..12]), "{listed}");
    desk.ok(&["plugin", "change", &id, "--config", r#"{"rule":"two"}"#]);
    desk.ok(&["plugin", "unbind", &id]);
    let check = || {
        for digits in [&digest[..8], &digest, &format!("sha256:{digest}")] {
            assert_eq!(desk.ok(&["plugin", "config", digits]), "{\"rule\":\"one\"}\n");
        }
        desk.plugin_told(5, &["config", &digest[..7]]);
        desk.plugin_told(5, &["config", "not-hex-at-all"]);
        let said = desk.plugin_told(5, &["config", &"0".repeat(64)]);
        assert!(said.contains("Configuration not found"), "{said}");
    };
    check();
    let server = desk.server();
    server.exchange("GET", "/health/live", None, "");
    check();
    server.stop();
}
