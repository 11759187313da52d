use super::super::{Audience, Notice};
use super::*;

fn denial(code: &str, message: &str) -> Denial {
    Denial {
        code: code.into(),
        message: message.into(),
        allowed_from: None,
        because: vec![],
    }
}

fn note(value: &str) -> Effect {
    Effect::Annotate(Attribute {
        name: "note".into(),
        value: value.into(),
    })
}

fn notice(subject: &str, body: &str) -> Effect {
    Effect::Notify(Notice {
        to: Audience::Target,
        subject: subject.into(),
        body: body.into(),
    })
}

#[test]
fn only_granted_effects_pass_and_the_rest_is_recorded() {
    let asked = vec![Effect::LockAccount, note("a"), Effect::RevokeSessions];
    let vetted = vet(Answer::Allow(asked), &Grants::of(["annotate"]), Mode::Enforce);
    assert_eq!(vetted.effects, vec![note("a")]);
    let refused: Vec<_> = vetted.refused.iter().map(|r| r.effect.name()).collect();
    assert_eq!(refused, ["lock-account", "revoke-sessions"]);
    assert_eq!(
        vetted.refused[0].why,
        "lock-account is not granted to this version: its manifest has to want it, and its binding to grant it"
    );
}

#[test]
fn an_unknown_effect_is_refused_even_where_its_name_is_granted() {
    let sly = Effect::Other(Attribute {
        name: "lock-account".into(),
        value: String::new(),
    });
    let vetted = vet(Answer::Effects(vec![sly]), &Grants::all(), Mode::Enforce);
    assert!(vetted.effects.is_empty());
    assert_eq!(vetted.refused.len(), 1);
}

#[test]
fn monitor_mode_applies_nothing() {
    let vetted = vet(Answer::Deny(denial("no", "No.")), &Grants::all(), Mode::Monitor);
    assert_eq!(vetted.decision, Decision::Allow);
    let vetted = vet(
        Answer::Allow(vec![Effect::LockAccount]),
        &Grants::all(),
        Mode::Monitor,
    );
    assert!(vetted.effects.is_empty());
}

#[test]
fn a_malformed_denial_stays_a_denial() {
    let long = "x".repeat(1_000_000);
    let mut bad = denial("Not Kebab\n", &long);
    bad.because = vec![
        Attribute {
            name: "BAD".into(),
            value: long
        };
        100
    ];
    let vetted = vet(Answer::Deny(bad), &Grants::default(), Mode::Enforce);
    let Decision::Deny(denial) = vetted.decision else {
        panic!("a denial was lost")
    };
    assert_eq!(denial.code, "policy-denied");
    assert_eq!(denial.message.chars().count(), MESSAGE_CHARS);
    assert!(denial.because.is_empty());
    assert!(!vetted.repaired.is_empty() && vetted.repaired.len() <= REFUSALS_KEPT);

    let vetted = vet(
        Answer::Deny(denial_of_nothing()),
        &Grants::default(),
        Mode::Enforce,
    );
    let Decision::Deny(denial) = vetted.decision else {
        panic!("a denial was lost")
    };
    assert_eq!(denial.message, "The organisation's policy denies this reset.");
}

fn denial_of_nothing() -> Denial {
    denial("", " ")
}

#[test]
fn a_notice_cannot_write_mail_headers_or_grow_without_bound() {
    let asked = vec![
        notice("Your MFA\r\nBcc: everyone@example.com", "x"),
        notice("Your MFA", &"x".repeat(4_001)),
        notice("Your MFA", "bell \u{7}"),
        notice("Your MFA was reset", "Was it you?\nIf not, call us."),
    ];
    let vetted = vet(Answer::Effects(asked), &Grants::all(), Mode::Enforce);
    assert_eq!(vetted.effects.len(), 1);
    assert_eq!(vetted.refused.len(), 3);
}

#[test]
fn effects_are_counted_and_windows_bounded() {
    let vetted = vet(
        Answer::Effects(vec![note("a"); 1_000]),
        &Grants::all(),
        Mode::Enforce,
    );
    assert_eq!(vetted.effects.len(), EFFECTS_MAX);
    assert_eq!(vetted.refused.len(), REFUSALS_KEPT);
    let vetted = vet(
        Answer::Allow(vec![Effect::RequireEnrolment(721)]),
        &Grants::all(),
        Mode::Enforce,
    );
    assert_eq!(vetted.refused.len(), 1);
}

#[test]
fn an_approval_is_held_to_its_bounds() {
    let wild = ApprovalDemand {
        reason: String::new(),
        approvals: 0,
        expires_secs: u32::MAX,
    };
    let vetted = vet(Answer::RequireApproval(wild), &Grants::default(), Mode::Enforce);
    let Decision::RequireApproval(approval) = vetted.decision else {
        panic!("an approval was lost")
    };
    assert_eq!((approval.approvals, approval.expires_secs), (1, EXPIRY_SECS_MAX));
    assert_eq!(vetted.repaired.len(), 3);
}

#[test]
fn decisions_combine_towards_the_stricter() {
    let ask = |approvals, expires_secs, reason: &str| {
        Decision::RequireApproval(ApprovalDemand {
            reason: reason.into(),
            approvals,
            expires_secs,
        })
    };
    let no = Decision::Deny(denial("no", "No."));
    assert_eq!(Decision::Allow.and(ask(1, 60, "a")), ask(1, 60, "a"));
    assert_eq!(ask(1, 600, "a").and(ask(2, 900, "b")), ask(2, 600, "a · b"));
    assert_eq!(ask(1, 600, "a").and(no.clone()), no);
    assert_eq!(no.clone().and(Decision::Allow), no);
}

#[test]
fn merged_effects_hold_each_once_and_the_shortest_window() {
    let mut effects = vec![Effect::RequireEnrolment(0), note("a")];
    merge_effects(
        &mut effects,
        vec![Effect::RequireEnrolment(24), note("a"), note("b")],
    );
    merge_effects(
        &mut effects,
        vec![Effect::RequireEnrolment(48), Effect::RequireEnrolment(0)],
    );
    let (default, shortest) = (Effect::RequireEnrolment(0), Effect::RequireEnrolment(24));
    assert_eq!(effects, vec![default, note("a"), shortest, note("b")]);
}

#[test]
fn a_further_policy_never_makes_the_window_longer() {
    let window = |effects: &[Effect], default| {
        let hours = effects.iter().filter_map(|effect| match effect {
            Effect::RequireEnrolment(0) => Some(default),
            Effect::RequireEnrolment(hours) => Some(*hours),
            _ => None,
        });
        hours.min()
    };
    for (one, two, three) in windows() {
        for default in [1, 24, 720] {
            let mut effects = Vec::new();
            let mut before = None;
            for hours in [one, two, three] {
                merge_effects(&mut effects, vec![Effect::RequireEnrolment(hours)]);
                let now = window(&effects, default);
                assert!(
                    before.is_none_or(|before| now <= Some(before)),
                    "{one}, {two}, {three}"
                );
                before = now;
            }
        }
    }
}

fn windows() -> impl Iterator<Item = (u32, u32, u32)> {
    const HOURS: [u32; 4] = [0, 8, 48, 720];
    let pairs = HOURS.into_iter().flat_map(|one| HOURS.map(|two| (one, two)));
    pairs.flat_map(|(one, two)| HOURS.map(|three| (one, two, three)))
}

#[test]
fn a_version_gets_what_it_wants_of_what_is_granted() {
    let grants = Grants::of(["annotate", "lock-account"]);
    let wants = ["annotate".to_owned(), "notify".to_owned()];
    assert_eq!(grants.wanted(&wants), Grants::of(["annotate"]));
}

#[test]
fn kebab_case() {
    for good in ["a", "outside-change-window", "rule-7", "a1-b2"] {
        assert!(is_kebab(good), "{good}");
    }
    for bad in ["", "-a", "a-", "a--b", "A", "7a", "a_b", "a b", "é"] {
        assert!(!is_kebab(bad), "{bad}");
    }
    assert!(!is_kebab(&"a".repeat(65)));
}

#[test]
fn answers_have_the_json_of_golden_cases() {
    let json = serde_json::to_value(Answer::Allow(vec![
        Effect::RequireEnrolment(24),
        Effect::LockAccount,
    ]));
    assert_eq!(
        json.expect("an answer is plain data"),
        serde_json::json!({"allow": [{"require-enrolment": 24}, "lock-account"]})
    );
}

#[test]
fn one_reset_carries_so_many_texts_and_whatever_else_is_wanted() {
    let note = |n: usize| {
        Effect::Annotate(Attribute {
            name: format!("n{n}"),
            value: "v".into(),
        })
    };
    let asked = || {
        let texts = (40..44).map(note);
        [Effect::RevokeSessions]
            .into_iter()
            .chain(texts)
            .chain([Effect::LockAccount])
    };
    let given = |so_far: usize| {
        let so_far: Vec<_> = (0..so_far).map(note).collect();
        let mut more: Vec<_> = asked().collect();
        let refused = refuse_surplus(&so_far, &mut more);
        assert_eq!(more.len() + refused.len(), 6);
        assert_eq!(more.first(), Some(&Effect::RevokeSessions));
        assert_eq!(more.last(), Some(&Effect::LockAccount));
        assert!(
            refused
                .iter()
                .all(|refused| matches!(refused.effect, Effect::Annotate(_)))
        );
        more.len() - 2
    };
    assert_eq!(given(TEXTS_MAX - 4), 4);
    assert_eq!(given(TEXTS_MAX - 3), 3);
    for full in [TEXTS_MAX, TEXTS_MAX + TEXTS_GUARANTEED, 3 * TEXTS_MAX] {
        assert_eq!(given(full), TEXTS_GUARANTEED, "nobody else can use these up");
    }
}

#[test]
fn a_text_that_turns_the_direction_of_writing_is_refused_and_marks_of_a_script_are_not() {
    let notice = |body: &str| {
        let to = Audience::Target;
        Answer::Allow(vec![Effect::Notify(Notice {
            to,
            subject: "A reset".into(),
            body: body.into(),
        })])
    };
    let given = |body: &str| vet(notice(body), &Grants::all(), Mode::Enforce).effects.len();
    assert_eq!(given("\u{200f}שלום"), 1);
    assert_eq!(given("evil \u{202e}moc.elpmaxe"), 0);
}
