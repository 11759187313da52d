//! What an operator's orders mean where plugins of several owners are called the same.

use std::fs;

use serde_json::Value;

use super::cli_support::Desk;
use super::guests::denying;

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

fn refused(desk: &Desk, args: &[&str]) -> String {
    let output = desk.run(&[&["plugin"], args].concat());
    let said = String::from_utf8(output.stderr).unwrap();
    assert_eq!(output.status.code(), Some(5), "{args:?}: {said}");
    said
}

/// A tenant can call a plugin as they like. That must lead neither the emergency switch nor a new version
/// to the tenant's file.
#[test]
fn a_tenants_plugin_of_the_same_name_diverts_no_order() {
    let desk = Desk::new();
    desk.ok(&["org", "create", "acme"]);
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
        let said = refused(&desk, &["disable", "--plugin", "guest"]);
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
        let said = refused(&desk, &["switch", &acmes, &tenants]);
        assert!(said.contains("Plugin not found"), "{running}: {said}");
        let said = refused(&desk, &["disable", "--plugin", "nobody"]);
        assert!(
            said.contains("Plugin not found with id: nobody"),
            "{running}: {said}"
        );
    };
    check("while none runs", "2.0.0");
    let server = desk.serve(&["serve", "--listen", "127.0.0.1:0"]);
    server.exchange("GET", "/health/live", None, ""); // by then it takes orders
    check("while a server runs", "3.0.0");
    server.stop();
}

/// The same file may be installed by the node and by an organisation: it is one plugin all the same.
#[test]
fn a_file_that_two_installed_is_one_plugin() {
    let desk = Desk::new();
    desk.ok(&["org", "create", "acme"]);
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
