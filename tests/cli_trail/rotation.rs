//! `latchkey audit rotate-key`.

use std::fs;

use serde_json::Value;

use super::{DATA, Desk, Running, assert_intact, audit, keep, run, said, verdict};

fn rotate(desk: &Desk) -> Value {
    serde_json::from_str(&audit(desk, &["rotate-key", "--json"])).unwrap()
}

#[test]
fn the_old_key_checks_on_and_leads_to_the_new_one_running_or_not() {
    let running = Running::new();
    running.reset();
    let desk = &running.desk;
    keep(desk, "first", &["key"]);
    keep(desk, "kept", &["checkpoint"]);
    let rotated = rotate(desk);
    assert_eq!(
        fs::read_to_string(desk.path("first")).unwrap().trim_end(),
        rotated["from"]
    );
    fs::write(desk.path("second"), rotated["to"].as_str().unwrap()).unwrap();
    running.reset();
    keep(desk, "across", &["export"]);
    for key in ["first", "second"] {
        assert_intact(desk, &[DATA, "--key", key]);
        assert_intact(desk, &["across", "--key", key]);
    }
    let kept = ["--key", "first", "--checkpoint", "kept"];
    assert_eq!(verdict(desk, &[&[DATA][..], &kept].concat()).1, Some(0));
    assert_eq!(verdict(desk, &[&["across"][..], &kept].concat()).1, Some(0));
    let plainly = desk.ok(&["audit", "verify", "across", "--key", "first"]);
    assert!(
        plainly.contains(rotated["to"].as_str().unwrap()),
        "the new key is told: {plainly}"
    );

    let Running { desk, server, .. } = running;
    server.stop();
    let output = run(&desk, &["rotate-key"]);
    assert_eq!(output.status.code(), Some(0), "{}", said(&output));
    fs::write(desk.path("third"), &output.stdout).unwrap();
    assert!(
        said(&output).contains("the old one vouches for it"),
        "{}",
        said(&output)
    );
    let keys = audit(&desk, &["key"]);
    let names: Vec<_> = ["first", "second", "third"]
        .iter()
        .map(|name| fs::read_to_string(desk.path(name)).unwrap().trim().to_owned())
        .collect();
    assert_eq!(keys.lines().collect::<Vec<_>>(), names);
    let server = desk.demo();
    server.stop();
    for key in ["first", "second", "third"] {
        assert_intact(&desk, &[DATA, "--key", key]);
        let known_then = if key == "third" { "second" } else { key };
        assert_intact(&desk, &["across", "--key", known_then]);
    }
    // Another appliance's key, of the same name, leads nowhere.
    let strange = Desk::new();
    strange.ok(&["org", "create", "acme"]);
    fs::write(desk.path("strange"), strange.ok(&["audit", "key"])).unwrap();
    for target in [DATA, "across"] {
        let (report, code) = verdict(&desk, &[target, "--key", "strange"]);
        assert_eq!((&report["vouchedSize"], code), (&0.into(), Some(1)), "{report}");
    }
}

#[test]
fn a_backup_from_before_a_change_is_restored_with_the_keys_from_afterwards() {
    let desk = Desk::new();
    desk.demo().stop();
    keep(&desk, "key", &["key"]);
    let on = |args: &[&str]| desk.ok(&[&["--data-dir", DATA], args].concat());
    on(&["backup", "before", "--keys", "none"]);
    rotate(&desk);
    on(&["backup", "after"]);
    let keys = format!("{DATA}/keys");
    desk.ok(&["restore", "before", "--data-dir", "one", "--keys-from", &keys]);
    desk.ok(&["restore", "after", "--data-dir", "two"]);
    for data in ["one", "two"] {
        fs::write(desk.path("keys"), desk.ok(&["--data-dir", data, "audit", "key"])).unwrap();
        assert_eq!(verdict(&desk, &[data, "--key", "keys"]).1, Some(0), "{data}");
    }
}

#[test]
fn without_a_key_it_says_what_the_check_rests_on() {
    let desk = Desk::new();
    desk.demo().stop();
    keep(&desk, "key", &["key"]);
    keep(&desk, "trail", &["export"]);
    let plainly =
        "checked against the keys in the trail itself: whoever can write it could have replaced them";
    for target in [DATA, "trail"] {
        let said = desk.ok(&["audit", "verify", target]);
        assert!(said.contains(plainly) && said.contains("pass --key"), "{said}");
        let (report, code) = verdict(&desk, &[target]);
        assert_eq!((&report["trustedOwnKeys"], code), (&true.into(), Some(0)));
        let said = desk.ok(&["audit", "verify", target, "--key", "key"]);
        assert!(!said.contains(plainly), "{said}");
        let (report, _) = verdict(&desk, &[target, "--key", "key"]);
        assert_eq!(report["trustedOwnKeys"], false);
    }
    let doctor = desk.ok(&["--data-dir", DATA, "doctor", "--json"]);
    let doctor: Value = serde_json::from_str(&doctor).unwrap();
    let trail = doctor
        .as_array()
        .unwrap()
        .iter()
        .find(|one| one["what"] == "audit trail");
    let trail = trail.unwrap()["text"].as_str().unwrap();
    assert!(trail.contains(plainly) && trail.contains("--key"), "{trail}");
}
