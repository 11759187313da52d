//! Signatures of plugins, as an operator meets them.

use std::fs;

use serde_json::{Value, json};

use super::cli_support::{Desk, fixture};

fn text(bytes: Vec<u8>) -> String {
    String::from_utf8(bytes).unwrap()
}

/// Exit code, standard output, standard error of an installation.
fn install(desk: &Desk, more: &[&str]) -> (Option<i32>, String, String) {
    let output = desk.run(&[&["plugin", "install", "policy.wasm"], more].concat());
    (output.status.code(), text(output.stdout), text(output.stderr))
}

fn plugins(desk: &Desk) -> Value {
    desk.json(&["plugin", "list", "--json"])["plugins"].clone()
}

/// A plugin signed by its author, and a key of somebody else's.
fn signed() -> Desk {
    let desk = Desk::with_acme();
    fs::copy(fixture("ticket-required"), desk.path("policy.wasm")).unwrap();
    for name in ["author", "other"] {
        desk.ok(&["plugin", "keygen", name, "--no-password"]);
    }
    let sign = [
        "plugin",
        "sign",
        "policy.wasm",
        "--key",
        "author.key",
        "--no-password",
    ];
    desk.ok(&sign);
    desk
}

#[test]
fn a_signature_is_checked_or_said_not_to_be() {
    let desk = signed();
    fs::write(desk.path("nonsense"), "nonsense").unwrap();
    let signature = ["--signature", "policy.wasm.minisig"];
    let by = |key| [&signature[..], &["--public-key", key]].concat();
    for (more, word) in [
        (vec!["--signature", "nonsense"], "[signature-malformed]"),
        (by("other.pub"), "[signature-unknown-key]"),
        (by("no.pub"), "public-key: is not a minisign public key"),
    ] {
        let (code, _, err) = install(&desk, &more);
        assert_eq!(code, Some(5), "{more:?}: {err}");
        assert!(err.contains(word), "{more:?}: {err}");
    }
    assert_eq!(plugins(&desk), json!([]), "checked before anything is kept");

    let (code, out, err) = install(&desk, &[&signature[..], &["--json"]].concat());
    assert_eq!(code, Some(0), "{err}");
    let installed: Value = serde_json::from_str(&out).unwrap();
    assert_eq!(
        (&installed["new"], &installed["signedBy"]),
        (&json!(true), &Value::Null)
    );
    assert!(err.contains("warning: The signature was not checked"), "{err}");
    assert!(
        err.contains("plugins.trusted_keys") && err.contains("--public-key"),
        "{err}"
    );

    let (code, out, err) = install(&desk, &by("author.pub"));
    assert_eq!(code, Some(0), "{err}");
    assert!(
        out.starts_with("ticket-required 1.0.0 was already installed, SHA-256 "),
        "{out}"
    );
    assert!(!err.contains("warning"), "{err}");
    let key = plugins(&desk)[0]["signedBy"].as_str().unwrap().to_owned();
    assert!(out.contains(&format!("Signed with the key {key}")), "{out}");
    let (_, out, _) = install(&desk, &by("author.pub"));
    assert!(out.contains("was already installed"), "{out}");
    let trail = desk.ok(&["audit", "export"]);
    let noted = trail
        .lines()
        .filter(|line| line.contains("POLICY_PLUGIN_UPDATE") && line.contains(&key))
        .count();
    assert_eq!(noted, 1, "it is on the record, once: {trail}");
}

#[test]
fn what_came_in_before_keys_were_trusted_is_told_until_it_is_signed() {
    let desk = signed();
    install(&desk, &[]);
    let author = fs::read_to_string(desk.path("author.pub")).unwrap();
    let author = author.lines().last().unwrap();
    let trusting = format!("[plugins]\ntrusted_keys = [{author:?}]\n");
    fs::write(desk.path("latchkey.toml"), trusting).unwrap();
    let signatures = || {
        let said: Value = serde_json::from_slice(&desk.run(&["doctor", "--json"]).stdout).unwrap();
        let found = said.as_array().unwrap().iter();
        let found = found.filter(|finding| finding["what"] == "signatures").cloned();
        found.collect::<Vec<_>>()
    };
    let [unsigned] = &signatures()[..] else {
        panic!("{:?}", signatures())
    };
    assert_eq!(unsigned["grade"], "doubtful", "{unsigned}");
    let told = unsigned["text"].as_str().unwrap();
    assert!(told.contains("ticket-required 1.0.0"), "{told}");

    let config = r#"{"prefixes":["HD-"]}"#;
    let bind = [
        "plugin",
        "bind",
        "ticket-required",
        "--org",
        "acme",
        "--config",
        config,
        "--json",
    ];
    let bound = desk.run(&bind);
    let [out, err] = [bound.stdout, bound.stderr].map(text);
    assert!(err.contains("warning: No key that this node trusts"), "{err}");
    let bound: Value = serde_json::from_str(&out).unwrap();
    assert_eq!(bound["binding"], bound["id"], "{bound}");
    assert_eq!(bound["plugin"], "ticket-required", "{bound}");
    let id = bound["id"].as_str().unwrap();
    let switched = desk.run(&["plugin", "switch", id, "ticket-required"]);
    let err = text(switched.stderr);
    assert!(err.contains("warning: No key that this node trusts"), "{err}");

    let (code, _, err) = install(&desk, &[]);
    assert_eq!(code, Some(5), "{err}");
    let (code, out, err) = install(&desk, &["--signature", "policy.wasm.minisig"]);
    assert_eq!(code, Some(0), "{err}");
    assert!(
        out.contains("was already installed") && out.contains("Signed with"),
        "{out}"
    );
    assert_eq!(signatures()[0]["grade"], "ok");
    let bound = desk.run(&bind);
    assert_eq!(text(bound.stderr), "");
}
