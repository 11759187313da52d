//! The recipes of `plugins/README.md` as they stand there: each configuration is taken by the plugin that
//! it names, each answer of its golden cases in `plugins/cookbook` comes out, and what it grants is what
//! it needs.

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;

use latchkey::domain::policy::{Answer, Effect};
use latchkey::plugin_host::{Case, HostOptions, Limits, PluginHost, base_question};
use serde_json::Value;

/// Compiled plugins are shared by the test programs and their runs.
fn host() -> PluginHost {
    let options = HostOptions {
        cache_dir: Some(Path::new(env!("CARGO_TARGET_TMPDIR")).join("plugin-cache")),
        ..HostOptions::default()
    };
    PluginHost::new(options).expect("a host")
}

/// A recipe as the README has it.
struct Recipe {
    folder: String,
    plugin: String,
    config: Value,
    grants: BTreeSet<String>,
}

/// Every `latchkey plugin bind` in the cookbook, under the heading above it.
fn recipes() -> Vec<Recipe> {
    let readme = fs::read_to_string("plugins/README.md").expect("the README");
    let (_, cookbook) = readme.split_once("\n## Cookbook\n").expect("it has a cookbook");
    let cookbook = cookbook.split("\n## ").next().expect("a section");
    let sections = cookbook.split("\n### ").skip(1);
    let recipe = |section: &str| {
        let (heading, text) = section.split_once('\n').expect("a heading");
        let (_, command) = text
            .split_once("latchkey plugin bind ")
            .unwrap_or_else(|| panic!("{heading}: no command"));
        let (command, _) = command.split_once("\n```").expect("a fenced command");
        let (_, config) = command.split_once("--config '").expect("a configuration");
        let (config, _) = config.split_once('\'').expect("its end");
        let grants = command
            .split("--grant ")
            .skip(1)
            .filter_map(|rest| rest.split_whitespace().next());
        Recipe {
            folder: format!(
                "plugins/cookbook/{}",
                heading.trim().to_lowercase().replace(' ', "-")
            ),
            plugin: command.split_whitespace().next().expect("a plugin").to_owned(),
            config: serde_json::from_str(config).unwrap_or_else(|error| panic!("{heading}: {error}")),
            grants: grants.map(ToOwned::to_owned).collect(),
        }
    };
    sections.map(recipe).collect()
}

fn cases(folder: &str) -> Vec<(String, Case)> {
    let entries = fs::read_dir(folder).unwrap_or_else(|error| panic!("{folder}: {error}"));
    let read = |path: &Path| {
        let text = fs::read_to_string(path).expect("the file can be read");
        let case = Case::parse(&text).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
        (path.display().to_string(), case)
    };
    entries
        .map(|entry| read(&entry.expect("an entry").path()))
        .collect()
}

/// The effects that this answer asks for.
fn asked_for(answer: &Value) -> BTreeSet<String> {
    let effects = match serde_json::from_value(answer.clone()) {
        Ok(Answer::Allow(effects) | Answer::Effects(effects)) => effects,
        _ => vec![],
    };
    effects
        .iter()
        .map(|effect: &Effect| effect.name().to_owned())
        .collect()
}

#[tokio::test]
async fn every_recipe_does_what_it_says() {
    let host = host();
    let limits = Limits {
        deadline_ms: 1_000,
        ..Limits::default()
    };
    let recipes = recipes();
    for wanted in [
        "business-hours",
        "quotas",
        "ticket-required",
        "protect-executives",
        "second-admin-for-privileged-users",
        "force-re-enrolment-within-24-hours",
    ] {
        assert!(
            recipes.iter().any(|recipe| recipe.folder.ends_with(wanted)),
            "no recipe {wanted}"
        );
    }
    for Recipe {
        folder,
        plugin,
        config,
        grants,
    } in &recipes
    {
        let wasm = fs::read(format!("fixtures/plugins/{plugin}.wasm")).expect("the plugin ships");
        let prepared = host.prepare(&wasm).expect("it is accepted");
        host.keep_artefact(&prepared);
        let manifest = host.describe(&prepared).await.expect("a manifest");
        let checked = host.check_config(&prepared, &manifest, &config.to_string()).await;
        assert!(checked.is_ok(), "{folder}: {checked:?}");

        let (mut needed, mut ends) = (BTreeSet::new(), BTreeSet::new());
        for (file, case) in cases(folder) {
            assert_eq!(
                &case.config, config,
                "{file} is not about the README's configuration"
            );
            let case = case
                .resolved(&base_question())
                .unwrap_or_else(|error| panic!("{file}: {error}"));
            let report = host
                .run_case(&prepared, limits, &case)
                .await
                .expect("it is resolved");
            assert!(report.passed, "{file}: {}", report.differences.join("; "));
            needed.extend(asked_for(&report.answer));
            ends.insert(report.answer.to_string());
        }
        assert!(ends.len() > 1, "{folder} shows one answer only");
        assert_eq!(grants, &needed, "{folder}: grants, and what its cases ask for");
    }
}

/// The page's table has every field of a question, and no other.
#[test]
fn the_table_of_a_questions_fields_is_whole() {
    let readme = fs::read_to_string("plugins/README.md").expect("the README");
    let (_, table) = readme
        .split_once("| field of `question` |")
        .expect("it has the table");
    let (table, _) = table.split_once("\n\n").expect("its end");
    let listed: BTreeSet<_> = table
        .lines()
        .skip(2)
        .filter_map(|row| row.split('|').nth(1))
        .flat_map(|cell| cell.split(','))
        .map(|field| field.trim().trim_matches('`').to_owned())
        .collect();
    let mut fields = BTreeSet::new();
    for (group, value) in base_question().as_object().expect("a question") {
        match value.as_object() {
            Some(inner) => fields.extend(inner.keys().map(|field| format!("{group}.{field}"))),
            None => {
                fields.insert(group.clone());
            }
        }
    }
    assert_eq!(listed, fields);
}
