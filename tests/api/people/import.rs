//! People imported from a file: all of them or nobody.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use latchkey::domain::Error;
use latchkey::domain::account::{OrganizationSettings, Role};
use latchkey::service::users::{Format, ImportOptions, Imported, import_users};
use serde_json::json;

use super::{app_with_mail, token_of};
use crate::support::TestApp;

const CSV: ImportOptions = ImportOptions {
    format: Format::Csv,
    dry_run: false,
    skip_existing: false,
    show_links: false,
};

async fn import(app: &TestApp, text: &str, options: ImportOptions) -> Imported {
    try_import(app, text, options).await.unwrap()
}

async fn try_import(app: &TestApp, text: &str, options: ImportOptions) -> Result<Imported, Error> {
    import_users(&app.services, "acme", text.as_bytes(), options, Arc::new(|_| {})).await
}

fn users(app: &TestApp) -> i64 {
    app.count("SELECT count(*) FROM user")
}

fn refused(imported: &Imported) -> Vec<String> {
    let lines = imported.refused.iter();
    lines
        .map(|line| format!("{} {}: {}", line.at, line.field, line.reason))
        .collect()
}

#[tokio::test]
async fn everybody_is_imported_with_an_entry_each_and_the_cells_as_they_are() {
    let app = TestApp::new().await;
    let before = users(&app);
    let text = "email,name,role\n\
                ann@acme.example,=HYPERLINK(\"http://x\"),\n\
                \"bo@acme.example\",\"+1 (234), Bo\",org-admin\n";
    let imported = import(&app, text, CSV).await;
    assert!(imported.refused.is_empty(), "{:?}", imported.refused);
    assert_eq!(users(&app), before + 2);
    let admin = app.admin().await;
    let listed = admin.get("/api/v1/users?query=ann@acme").await;
    let ann = &listed.assert_ok()[0];
    assert_eq!(ann["name"], "=HYPERLINK(\"http://x\")", "{}", listed.text);
    let listed = admin.get("/api/v1/users?query=bo@acme").await;
    let bo = &listed.assert_ok()[0];
    assert_eq!(
        (&bo["name"], &bo["isOrgAdmin"]),
        (&json!("+1 (234), Bo"), &json!(true))
    );
    let entries: Vec<_> = app
        .trail()
        .into_iter()
        .filter(|entry| entry["details"]["import"].is_string())
        .collect();
    assert_eq!(entries.len(), 2);
    assert_eq!(entries[0]["actor"]["type"], "OPERATOR");
    assert_eq!(entries[0]["details"]["line"], 3);
    assert_eq!(entries[0]["details"]["import"], entries[1]["details"]["import"]);
    // Nobody can log in before they set a password.
    let answer = app.log_in("ann@acme.example", "").await;
    assert_ne!(answer.status, 200);
}

#[tokio::test]
async fn one_refused_line_and_nobody_is_imported() {
    let app = TestApp::new().await;
    let (before, entries) = (users(&app), app.trail().len());
    let long = "x".repeat(321);
    let text = format!(
        "email,name,role\n\
         fine@acme.example,Fine,\n\
         not an address,N,\n\
         Fine@ACME.example,again,\n\
         admin@acme.example,taken,\n\
         long@acme.example,{long},\n\
         \"line@acme.example\",\"two\nlines\",\n\
         desk@acme.example,D,help-desk\n\
         boss@acme.example,B,boss\n\
         short@acme.example\n"
    );
    let imported = import(&app, &text, CSV).await;
    assert_eq!(
        refused(&imported),
        [
            "3 email: must be an e-mail address",
            "4 email: is also in line 2",
            "5 email: is taken: there is such a user already",
            "6 name: must have at most 320 characters",
            "7 name: must have no control characters",
            "9 role: help-desk is not enabled in this organisation",
            "10 role: must be member, help-desk or org-admin, not \"boss\"",
            "11 : has 1 cells, but the heading has 3",
        ]
    );
    assert_eq!((users(&app), app.trail().len()), (before, entries));
}

#[tokio::test]
async fn a_dry_run_says_what_would_happen_and_changes_nothing() {
    let app = TestApp::with(OrganizationSettings {
        help_desk_enabled: true,
        ..Default::default()
    })
    .await;
    let (before, entries) = (users(&app), app.trail().len());
    let text = r#"[{"email":"ann@acme.example","role":"HELP_DESK"},{"email":"dev@acme.example"}]"#;
    let options = ImportOptions {
        format: Format::Json,
        dry_run: true,
        skip_existing: true,
        show_links: true,
    };
    let imported = import(&app, text, options).await;
    assert_eq!((imported.users.len(), imported.existing), (1, 1));
    assert_eq!(imported.users[0].role, Role::HelpDesk);
    assert!(imported.links.is_empty(), "a link that opens nothing is none");
    assert_eq!((users(&app), app.trail().len()), (before, entries));
    // The same for real, twice: the second time there is nobody left to import.
    let options = ImportOptions {
        dry_run: false,
        ..options
    };
    assert_eq!(import(&app, text, options).await.users.len(), 1);
    let again = import(&app, text, options).await;
    assert_eq!((again.users.len(), again.existing), (0, 2));
    assert_eq!(users(&app), before + 1);
}

#[tokio::test]
async fn a_link_is_shown_or_mailed_and_sets_a_password() {
    let text = "email\nann@acme.example\n";
    let app = TestApp::new().await;
    let options = ImportOptions {
        show_links: true,
        ..CSV
    };
    let imported = import(&app, text, options).await;
    let (email, shown) = &imported.links[0];
    assert_eq!((email.as_str(), imported.mailed), ("ann@acme.example", 0));
    let body = json!({ "token": token_of(&shown.link), "password": "a fine long pass-phrase" });
    let accepted = app.anonymous().post("/api/v1/auth/accept-invitation", body).await;
    accepted.assert_ok();
    let login = app.log_in("ann@acme.example", "a fine long pass-phrase").await;
    login.assert_ok();

    let app = app_with_mail().await;
    let imported = import(&app, text, options).await;
    assert_eq!(
        (imported.links.len(), imported.mailed),
        (0, 1),
        "mailed, so not shown"
    );
    let mail = &app.owed_mail()[0];
    assert_eq!(mail.to, "ann@acme.example");
    assert!(mail.body.contains("/invitation#"), "{}", mail.body);
}

#[tokio::test]
async fn a_store_that_fails_half_way_leaves_nobody() {
    let app = TestApp::new().await;
    let (before, entries) = (users(&app), app.trail().len());
    let trigger = "CREATE TEMP TRIGGER fails BEFORE INSERT ON user WHEN NEW.email = 'c@acme.example' \
                   BEGIN SELECT RAISE(ABORT, 'the disk is full'); END";
    app.services
        .store
        .write(move |tx| Ok(tx.execute_batch(trigger)?))
        .await
        .unwrap();
    let reached = Arc::new(AtomicU64::new(0));
    let watch = {
        let reached = Arc::clone(&reached);
        Arc::new(move |done| {
            reached.fetch_max(done, Ordering::Relaxed);
        })
    };
    let text = b"email\na@acme.example\nb@acme.example\nc@acme.example\nd@acme.example\n";
    let ended = import_users(&app.services, "acme", text, CSV, watch).await;
    assert!(ended.is_err());
    assert_eq!(
        reached.load(Ordering::Relaxed),
        2,
        "two were made before it failed"
    );
    assert_eq!((users(&app), app.trail().len()), (before, entries));
}

#[tokio::test]
async fn what_is_no_such_file_or_organisation_is_refused() {
    let app = TestApp::new().await;
    let told = async |text: &str| try_import(&app, text, CSV).await.unwrap_err().to_string();
    assert_eq!(told("").await, "The file contains no users");
    assert_eq!(
        told("email,rolle\na@acme.example,org-admin\n").await,
        "The first line must name the columns, of which there are email, name, role; it has \"rolle\""
    );
    let nowhere = import_users(
        &app.services,
        "nowhere",
        b"email\na@b.example\n",
        CSV,
        Arc::new(|_| {}),
    )
    .await;
    assert!(matches!(nowhere, Err(Error::NotFound { .. })));
}
