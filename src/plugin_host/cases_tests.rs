use super::embedding::{CASES_BYTES_MAX, CASES_MAX, SECTION};
use super::*;

fn differences(expected: &Value, got: &Value) -> Vec<String> {
    let mut differences = Vec::new();
    compare("", expected, got, &mut differences);
    differences
}

#[test]
fn comparison_is_exact_but_for_null() {
    assert!(
        differences(
            &json!({"deny": {"code": "a"}}),
            &json!({"deny": {"code": "a", "allowedFrom": null}})
        )
        .is_empty()
    );
    assert_eq!(
        differences(
            &json!({"deny": {"code": "a"}}),
            &json!({"deny": {"code": "b", "because": [1]}})
        ),
        [
            r#"deny.code: expected "a", got "b""#,
            "deny.because: expected nothing, got [1]"
        ]
    );
    assert_eq!(
        differences(&json!({"allow": [1, 2]}), &json!({"allow": [1]})),
        ["allow[1]: expected 2, got nothing"]
    );
    assert_eq!(
        differences(&json!({"allow": []}), &json!({"deny": {}})),
        [
            "allow: expected [], got nothing",
            "deny: expected nothing, got {}"
        ]
    );
}

#[test]
fn merge_patch_is_that_of_rfc_7396() {
    // Appendix A.
    for (target, patch, result) in [
        (json!({"a":"b"}), json!({"a":"c"}), json!({"a":"c"})),
        (json!({"a":"b"}), json!({"b":"c"}), json!({"a":"b","b":"c"})),
        (json!({"a":"b"}), json!({"a":null}), json!({})),
        (json!({"a":"b","b":"c"}), json!({"a":null}), json!({"b":"c"})),
        (json!({"a":["b"]}), json!({"a":"c"}), json!({"a":"c"})),
        (json!({"a":"c"}), json!({"a":["b"]}), json!({"a":["b"]})),
        (
            json!({"a":{"b":"c"}}),
            json!({"a":{"b":"d","c":null}}),
            json!({"a":{"b":"d"}}),
        ),
        (json!({"a":[{"b":"c"}]}), json!({"a":[1]}), json!({"a":[1]})),
        (json!(["a", "b"]), json!(["c", "d"]), json!(["c", "d"])),
        (json!({"a":"b"}), json!(["c"]), json!(["c"])),
        (json!({"a":"foo"}), json!(null), json!(null)),
        (json!({"a":"foo"}), json!("bar"), json!("bar")),
        (json!({"e":null}), json!({"a":1}), json!({"e":null,"a":1})),
        (json!([1, 2]), json!({"a":"b","c":null}), json!({"a":"b"})),
        (
            json!({}),
            json!({"a":{"bb":{"ccc":null}}}),
            json!({"a":{"bb":{}}}),
        ),
    ] {
        let mut merged = target;
        merge_patch(&mut merged, &patch);
        assert_eq!(merged, result);
    }
}

#[test]
fn a_case_is_read_strictly_and_resolved_over_the_base() {
    let case = |text: &str| Case::parse(text).expect_err("refused").to_string();
    assert!(case("{").contains("not a golden case"));
    assert!(
        case(r#"{"description":"","hook":"before-reset","expect":{"effects":[]}}"#).contains("not effects")
    );
    assert!(
        case(r#"{"description":"","hook":"before-reset","outcome":{},"expect":{"allow":[]}}"#)
            .contains("only after")
    );
    assert!(
        case(r#"{"description":"","hook":"before-reset","expect":{"allow":[]},"x":1}"#)
            .contains("unknown field")
    );

    let case = Case::parse(
        r#"{"description":"d","hook":"after-reset","question":{"actor":{"role":"help-desk"}},
        "outcome":{"kind":"failed","removed":[]},"expect":{"effects":[]}}"#,
    );
    let resolved = case.expect("a case").resolved(&base_question()).expect("whole");
    assert_eq!(resolved.question["actor"]["role"], "help-desk");
    assert_eq!(resolved.outcome.expect("an outcome")["kind"], "failed");

    let partial = Case::parse(
        r#"{"description":"d","hook":"before-reset","question":{"actor":null},"expect":{"allow":[]}}"#,
    );
    let error = partial
        .expect("a case")
        .resolved(&base_question())
        .expect_err("refused")
        .to_string();
    assert!(error.contains("missing field `actor`"), "{error}");
}

#[test]
fn cases_travel_in_the_file_and_replace_those_before() {
    let plain = wat::parse_str("(component (core module) (core module))").expect("a component");
    assert_eq!(embedded(&plain).expect("readable"), []);
    let one = embed(&plain, &[case(1)]).expect("embedded");
    assert_eq!(embedded(&one).expect("readable"), [case(1)]);
    let two = embed(&one, &[case(2), case(3)]).expect("embedded");
    assert_eq!(embedded(&two).expect("readable"), [case(2), case(3)]);
    let none = embed(&two, &[]).expect("embedded");
    assert_eq!(none.len(), plain.len() + 2 + 1 + SECTION.len() + 2);
    assert!(embed(b"not wasm", &[]).is_err());
}

fn case(n: usize) -> Case {
    Case {
        description: format!("{n} {}", "x".repeat(100)),
        hook: CaseHook::CheckConfig,
        config: empty(),
        question: empty(),
        outcome: None,
        expect: json!({"ok": true}),
    }
}

#[test]
fn the_cases_of_all_sections_are_counted_together() {
    let plain = wat::parse_str("(module)").expect("a module");
    let section = |cases: usize| {
        let cases: Vec<Case> = (0..cases).map(case).collect();
        embed(&plain, &cases).expect("embedded").split_off(plain.len())
    };
    let with = |sections: &[usize]| {
        let sections: Vec<_> = sections.iter().flat_map(|n| section(*n)).collect();
        embedded(&[&plain[..], &sections].concat())
    };
    assert_eq!(
        with(&[250, 250]).expect("as many as there may be").len(),
        CASES_MAX
    );
    let refused = with(&[250, 251]).expect_err("one more").to_string();
    assert_eq!(refused, "there are more than 500 of them");

    let long = |bytes: usize| Case {
        description: "x".repeat(bytes),
        ..case(0)
    };
    let half = embed(&plain, &[long(CASES_BYTES_MAX / 2)]).expect("embedded");
    assert!(embedded(&half).is_ok());
    let twice = [&half[..], &half[plain.len()..]].concat();
    let refused = embedded(&twice).expect_err("too large").to_string();
    assert_eq!(refused, "they have more than 4 MiB");
    assert!(embed(&plain, &[long(CASES_BYTES_MAX)]).is_err());
}
