//! How the contract may change: what was built against 1.0 keeps working when 1.1 comes.
//!
//! `fixtures/contract/policy-1.0.0.wit` is the contract as it was released, for ever. `1.1/policy.wit` is
//! an invented successor that adds functions and an interface. The modules in `fixtures/plugins`
//! are builds against 1.0.

use std::collections::{BTreeMap, BTreeSet};

use latchkey::plugin_host::{Contracts, read_package};
use semver::Version;
use wasmtime::component::{Component, HasSelf, Linker};
use wasmtime::{Engine, Store};
use wit_parser::{Resolve, Type, TypeDefKind, WorldItem};

const RELEASED: &str = include_str!("../fixtures/contract/policy-1.0.0.wit");
const CURRENT: &str = include_str!("../plugins/wit/v1/policy.wit");
const INVENTED: &str = include_str!("../fixtures/contract/1.1/policy.wit");

mod later {
    wasmtime::component::bindgen!({ path: "fixtures/contract/1.1", world: "policy" });
}
use later::latchkey::policy::{calendar, log, types};

/// A host that speaks 1.1.
#[derive(Default)]
struct LaterHost {
    lines: Vec<String>,
}

impl log::Host for LaterHost {
    fn write(&mut self, _: log::Level, message: String) {
        self.lines.push(message);
    }

    fn write_fact(&mut self, _: log::Level, fact: types::Attribute) {
        self.lines.push(fact.name);
    }
}

impl calendar::Host for LaterHost {
    fn is_holiday(&mut self, _: u64) -> bool {
        false
    }
}

impl types::Host for LaterHost {}

fn question(target_resets: u32) -> types::Question {
    let text = |text: &str| text.to_owned();
    types::Question {
        organization: types::Organization {
            id: text("o"),
            slug: text("acme"),
            name: text("Acme"),
            mfa_required: true,
        },
        actor: types::Actor {
            id: text("a"),
            email: text("ada@acme.example"),
            name: None,
            role: types::Role::OrgAdmin,
            second_factor_used: true,
            authenticated_secs_ago: 1,
        },
        target: types::Target {
            id: text("t"),
            email: text("dan@acme.example"),
            name: None,
            role: types::Role::Member,
            active: true,
            factors: vec![],
            active_sessions: 0,
            created_at: 0,
            last_login_at: None,
        },
        request: types::Request {
            id: text("r"),
            at: 1_771_410_600_000,
            utc_offset_minutes: 0,
            channel: types::Channel::Api,
            ip: None,
            user_agent: None,
            reason: None,
            ticket: None,
            dry_run: false,
        },
        history: types::History {
            of_target: (0..u64::from(target_resets))
                .map(|n| types::PastReset {
                    at: 1_771_410_600_000 - (n + 1) * 60_000,
                    actor_id: text("a"),
                    target_id: text("t"),
                    outcome: types::ResultKind::Done,
                    ticket: None,
                })
                .collect(),
            by_actor: vec![],
            target_resets_last_day: target_resets,
            target_resets_last_30_days: target_resets,
            actor_resets_last_hour: 0,
            actor_resets_last_day: 0,
            organization_resets_last_hour: 0,
            organization_resets_last_day: 0,
        },
        attributes: vec![],
    }
}

#[test]
fn a_module_built_against_1_0_works_on_a_host_of_1_1() {
    let engine = Engine::default();
    let mut linker = Linker::new(&engine);
    later::Policy::add_to_linker::<_, HasSelf<_>>(&mut linker, |host: &mut LaterHost| host).expect("linked");
    // Read as the product of that day will: its own contracts, and one row more.
    let contracts = Contracts::released().and(Version::new(1, 1, 0), INVENTED);
    let ask = |file: &[u8], resets: u32| {
        let package = contracts.read(file).expect("1.1 takes it");
        assert_eq!(package.contract, Version::new(1, 0, 0));
        let component = Component::new(&engine, &package.component).expect("it compiles");
        let mut store = Store::new(&engine, LaterHost::default());
        let policy = later::Policy::instantiate(&mut store, &component, &linker).expect("1.1 hosts it");
        let hooks = policy.latchkey_policy_hooks();
        let manifest = hooks.call_describe(&mut store).expect("it describes itself");
        let config = r#"{"perUser":{"max":2,"days":30}}"#;
        hooks
            .call_check_config(&mut store, config)
            .expect("no trap")
            .expect("a good configuration");
        let verdict = hooks
            .call_before_reset(&mut store, &question(resets), config)
            .expect("no trap")
            .expect("no error");
        (manifest.name, verdict)
    };
    // A component, and core modules of another compiler: all of the released 1.0.
    for (file, from_core_module) in [("reset-budget", false), ("reset-budget-c", true)] {
        let wasm = std::fs::read(format!("fixtures/plugins/{file}.wasm")).expect("the build against 1.0");
        assert_eq!(
            contracts.read(&wasm).expect("taken").from_core_module,
            from_core_module
        );
        let (name, verdict) = ask(&wasm, 1);
        assert_eq!(name, "reset-budget", "{file}");
        assert!(matches!(verdict, types::Verdict::Allow(effects) if effects.is_empty()));
        let (_, types::Verdict::Deny(denial)) = ask(&wasm, 2) else {
            panic!("the budget is used up, {file}")
        };
        assert_eq!(denial.code, "user-reset-budget", "{file}");
        assert!(denial.allowed_from.is_some() && !denial.because.is_empty());
    }
    let guest = |name: &str| wat::parse_file(format!("fixtures/guests/{name}.wat")).expect("a guest");
    let (name, verdict) = ask(&guest("allow"), 0);
    assert_eq!(name, "guest-allow");
    assert!(matches!(verdict, types::Verdict::Allow(_)));
    let (_, verdict) = ask(&guest("deny"), 0);
    assert!(matches!(verdict, types::Verdict::Deny(denial) if denial.code == "as-the-guest-likes"));

    // What was built for 1.1 is read by 1.1's text, and refused by today's host.
    let text = std::fs::read_to_string("fixtures/guests/allow.wat").expect("a guest");
    let newer = wat::parse_str(text.replace("@1.0.0", "@1.1.0")).expect("a module");
    assert_eq!(
        contracts.read(&newer).expect("1.1 takes it").contract,
        Version::new(1, 1, 0)
    );
    let refused = read_package(&newer).expect_err("too new for 1.0");
    assert_eq!(refused.code(), "wrong-contract-version");
}

#[test]
fn the_contract_has_not_changed_in_a_way_that_breaks_what_was_built_for_1_0() {
    assert_eq!(breaks(RELEASED, CURRENT), Vec::<String>::new());
    assert_eq!(
        breaks(RELEASED, INVENTED),
        Vec::<String>::new(),
        "additions break nothing"
    );
    assert!(
        CURRENT.starts_with("package latchkey:policy@1."),
        "a 2.0 is another folder"
    );
}

#[test]
fn what_would_break_old_plugins_is_found() {
    for (from, to, word) in [
        (
            "channel: channel,",
            "channel: channel, trace-id: string,",
            "types.request",
        ),
        (
            "other(attribute),",
            "other(attribute), page(string),",
            "types.effect",
        ),
        ("enum role { member,", "enum role { guest, member,", "types.role"),
        (
            "type timestamp-ms = u64;",
            "type timestamp-ms = s64;",
            "types.timestamp-ms",
        ),
        (
            "write: func(level: level,",
            "write: func(urgent: bool, level: level,",
            "log.write",
        ),
        (
            "describe: func() -> manifest;",
            "describe: func() -> manifest; on-login: func();",
            "hooks.on-login",
        ),
        ("describe: func() -> manifest;", "", "hooks.describe"),
        ("import log;", "", "world: import log"),
        ("export hooks;", "export hooks; export log;", "world: export log"),
    ] {
        assert!(RELEASED.contains(from), "{from}");
        let found = breaks(RELEASED, &RELEASED.replacen(from, to, 1));
        assert!(
            found.iter().any(|what| what.starts_with(word)),
            "{word}: {found:?}"
        );
    }
}

/// What in `new` breaks a plugin that was built for `old`.
///
/// wasmtime matches interfaces by name and semver, then checks every type structurally. So types and
/// the functions that a plugin exports are frozen; functions and interfaces that it may import can be added.
fn breaks(old: &str, new: &str) -> Vec<String> {
    let (old, new) = (Shape::of(old), Shape::of(new));
    let mut found = Vec::new();
    for (name, shape) in &old.parts {
        match new.parts.get(name) {
            None => found.push(format!("{name} is gone")),
            Some(other) if other != shape => found.push(format!("{name} was {shape} and is {other}")),
            Some(_) => {}
        }
    }
    for (name, shape) in &new.parts {
        let function = name.starts_with("hooks.") && shape.starts_with('(');
        if function && !old.parts.contains_key(name) {
            found.push(format!("{name} is demanded of plugins that don't have it"));
        }
    }
    found.extend(
        old.imports
            .difference(&new.imports)
            .map(|name| format!("world: import {name} is gone")),
    );
    let demanded = new.exports.symmetric_difference(&old.exports);
    found.extend(demanded.map(|name| format!("world: export {name} is not the same")));
    found
}

/// A contract as plain text, by name.
#[derive(Default)]
struct Shape {
    parts: BTreeMap<String, String>,
    imports: BTreeSet<String>,
    exports: BTreeSet<String>,
}

impl Shape {
    fn of(wit: &str) -> Self {
        let mut resolve = Resolve::default();
        let package = resolve.push_str("policy.wit", wit).expect("WIT");
        let mut shape = Self::default();
        for (name, id) in &resolve.packages[package].interfaces {
            let interface = &resolve.interfaces[*id];
            for (ty, id) in &interface.types {
                shape
                    .parts
                    .insert(format!("{name}.{ty}"), definition(&resolve, *id));
            }
            for (function, it) in &interface.functions {
                let params: Vec<_> = it
                    .params
                    .iter()
                    .map(|p| format!("{}: {}", p.name, named(&resolve, &p.ty)))
                    .collect();
                let result = it
                    .result
                    .as_ref()
                    .map_or_else(String::new, |ty| named(&resolve, ty));
                let text = format!("({}) -> {result}", params.join(", "));
                shape.parts.insert(format!("{name}.{function}"), text);
            }
        }
        let world = resolve
            .select_world(&[package], Some("policy"))
            .expect("the world");
        let names = |items: Vec<&WorldItem>| {
            items
                .into_iter()
                .filter_map(|item| match item {
                    WorldItem::Interface { id, .. } => resolve.interfaces[*id].name.clone(),
                    _ => None,
                })
                .collect()
        };
        let world = &resolve.worlds[world];
        shape.imports = names(world.imports.values().collect());
        shape.exports = names(world.exports.values().collect());
        shape
    }
}

fn definition(resolve: &Resolve, id: wit_parser::TypeId) -> String {
    let list = |items: Vec<String>| items.join(", ");
    match &resolve.types[id].kind {
        TypeDefKind::Record(it) => format!(
            "record {{ {} }}",
            list(
                it.fields
                    .iter()
                    .map(|f| format!("{}: {}", f.name, named(resolve, &f.ty)))
                    .collect()
            )
        ),
        TypeDefKind::Variant(it) => format!(
            "variant {{ {} }}",
            list(
                it.cases
                    .iter()
                    .map(|c| format!(
                        "{}({})",
                        c.name,
                        c.ty.as_ref().map_or_else(String::new, |ty| named(resolve, ty))
                    ))
                    .collect()
            )
        ),
        TypeDefKind::Enum(it) => {
            format!(
                "enum {{ {} }}",
                list(it.cases.iter().map(|c| c.name.clone()).collect())
            )
        }
        TypeDefKind::Option(ty) => format!("option<{}>", named(resolve, ty)),
        TypeDefKind::List(ty) => format!("list<{}>", named(resolve, ty)),
        TypeDefKind::Result(it) => {
            let side = |ty: &Option<Type>| {
                ty.as_ref()
                    .map_or_else(|| "_".to_owned(), |ty| named(resolve, ty))
            };
            format!("result<{}, {}>", side(&it.ok), side(&it.err))
        }
        TypeDefKind::Type(ty) => named(resolve, ty),
        other => panic!(
            "the contract uses a new kind of type, {}: teach this test",
            other.as_str()
        ),
    }
}

/// The type's name, or its definition where it has none.
fn named(resolve: &Resolve, ty: &Type) -> String {
    match ty {
        Type::Id(id) => {
            let name = resolve.types[*id].name.clone();
            name.unwrap_or_else(|| definition(resolve, *id))
        }
        other => format!("{other:?}").to_lowercase(),
    }
}
