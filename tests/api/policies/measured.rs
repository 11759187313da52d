//! Figures that the issue asks for, printed; what is asserted is generous, for busy machines.
//! `cargo test --test api -- measured --nocapture --include-ignored --test-threads 1`

use std::sync::Arc;
use std::time::{Duration, Instant};

use latchkey::domain::account::OrganizationId;
use latchkey::plugin_host::Digest;
use latchkey::service::plugins::{self, Manager, NewPlugin};
use latchkey::store::{bindings, configurations};
use serde_json::json;

use crate::plugins::{PLUGINS, bind, fixture, install, patient};
use crate::support::{TestApp, enrol};

/// Three policies each for a thousand organisations, with configurations of their own.
#[tokio::test]
async fn measured_bindings_of_a_thousand_organisations_at_start() {
    const ORGANIZATIONS: usize = 1_000;
    let app = TestApp::new().await;
    let operator = Manager::operator(&app.services);
    for (name, config) in [
        ("reset-budget", json!({ "perUser": { "max": 2, "days": 30 } })),
        ("ticket-required", json!({ "prefixes": ["HD-"] })),
        ("force-reenrollment", json!({ "hours": 8 })),
    ] {
        app.bind(name, config).await;
    }
    let rows = app
        .services
        .store
        .read(|db| bindings::find_bindings(db, bindings::Of::All));
    let rows = rows.unwrap();
    let (services, at) = (Arc::clone(&app.services), app.services.clock.now());
    app.services
        .store
        .write(move |tx| {
            for n in 0..ORGANIZATIONS {
                let organization = OrganizationId(services.entropy.uuid(at));
                tx.execute(
                    "INSERT INTO organization (id, slug, name, settings, created_at, updated_at) \
                     SELECT ?1, ?2, ?2, settings, created_at, updated_at FROM organization LIMIT 1",
                    (organization.0.as_bytes(), format!("org-{n}")),
                )?;
                for row in &rows {
                    let config = format!("{{\"hours\":8,\"note\":\"{n} {}\"}}", row.position);
                    let mut own = row.clone();
                    own.id = services.entropy.uuid(at);
                    own.organization_id = Some(organization);
                    own.version.config_digest = Digest::of(config.as_bytes()).0;
                    configurations::insert_configuration(tx, &own.version.config_digest, &config, at)?;
                    bindings::insert_binding(tx, &own)?;
                }
            }
            Ok(())
        })
        .await
        .unwrap();
    let (before, started) = (resident_bytes(), Instant::now());
    plugins::reload(&app.services).unwrap();
    let (took, grown) = (started.elapsed(), resident_bytes().saturating_sub(before));
    println!(
        "bindings of {} organisations, 3 each: {took:?}, {} KiB more resident",
        ORGANIZATIONS + 1,
        grown >> 10
    );
    assert_eq!(app.services.bindings.of(app.acme).plugins.len(), 3);
    assert!(took < Duration::from_secs(3), "{took:?}");
    drop(operator);
}

/// Installing a large plugin, say of Python: `LATCHKEY_LARGE_PLUGIN=reset-budget.wasm`.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "needs LATCHKEY_LARGE_PLUGIN, a plugin that takes seconds to compile"]
#[expect(
    clippy::disallowed_methods,
    reason = "no file of that size is kept in the repository"
)]
async fn measured_resets_while_a_plugin_compiles() {
    let file = std::env::var("LATCHKEY_LARGE_PLUGIN").expect("LATCHKEY_LARGE_PLUGIN names a file");
    let large = std::fs::read(file).unwrap();
    let app = TestApp::new().await;
    let admin = app.admin().await;
    let digest = install(&admin, fixture("reset-budget")).await;
    let terms = patient(json!({ "config": { "perAdmin": { "maxPerDay": 1000 } } }));
    bind(&admin, &digest, terms).await;
    let one = async || {
        let started = Instant::now();
        admin.reset(app.developer.id).await;
        started.elapsed()
    };
    let say = |what: &str, mut took: Vec<Duration>| {
        took.sort();
        let (p50, p99) = (took[took.len() / 2], took[took.len() * 99 / 100]);
        println!(
            "{what}: {} resets, p50 {p50:?}, p99 {p99:?}, longest {:?}",
            took.len(),
            took[took.len() - 1]
        );
        p99
    };
    let mut quiet = Vec::new();
    for _ in 0..500 {
        quiet.push(one().await);
        enrol(&app.services, app.developer.id).await;
    }
    say("quiet", quiet);
    let services = Arc::clone(&app.services);
    let started = Instant::now();
    let steps = Arc::new(std::sync::Mutex::new(Vec::new()));
    let seen = Arc::clone(&steps);
    let installing = tokio::spawn(async move {
        let new = NewPlugin {
            owner: None,
            bytes: large.into(),
            signature: None,
            public_key: None,
        };
        let watch: plugins::Watch = Arc::new(move |progress| seen.lock().unwrap().push(progress));
        plugins::install_plugin(&services, &Manager::operator(&services), new, watch).await
    });
    let mut beside = Vec::new();
    while !installing.is_finished() {
        beside.push(one().await);
        enrol(&app.services, app.developer.id).await;
    }
    let installed = installing.await.unwrap().unwrap();
    println!(
        "{} {} compiled in {:?}, steps {:?}",
        installed.plugin.manifest.name,
        installed.plugin.manifest.version,
        started.elapsed(),
        steps.lock().unwrap()
    );
    say("while it compiles", beside);
    assert_eq!(admin.get(PLUGINS).await.assert_ok().as_array().unwrap().len(), 2);
}

fn resident_bytes() -> u64 {
    let statm = std::fs::read_to_string("/proc/self/statm").unwrap_or_default();
    let pages = statm
        .split_whitespace()
        .nth(1)
        .and_then(|pages| pages.parse::<u64>().ok());
    pages.unwrap_or_default() * 4096
}
