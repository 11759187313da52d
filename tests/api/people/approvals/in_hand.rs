//! Whom the one who asks had in hand, or who had them in hand, is no other person for a while.

use jiff::SignedDuration;
use latchkey::domain::account::{AdminOnAdmin, Role, User};
use latchkey::service::not_me;
use latchkey::store::challenges::{self, Purpose};
use serde_json::json;

use super::super::{app_where, token_of, user_path};
use super::{app_that_wants_admins, approve, asked, has_mfa, reject, state};
use crate::support::{Caller, DEVELOPER, TestApp};

const IN_HAND: &str = "You and an administrator who asked for this or agreed to it don't count as two: within the \
                       last 7 days one of you made the other's account, gave it its role, unlocked it or reset its \
                       credentials; another administrator has to agree";

/// One who makes an account and knows its password is not a second person once somebody else promotes it.
#[tokio::test]
async fn whom_the_one_who_asks_had_in_hand_does_not_count_for_a_week() {
    let app = app_that_wants_admins(1).await;
    let (admin, second) = (app.admin().await, app.caller(&app.second_admin).await);
    let made = admin
        .post("/api/v1/users", json!({ "email": "puppet@acme.example" }))
        .await;
    made.assert_status(201);
    let kept = token_of(made.body["invitationLink"].as_str().unwrap());
    let path = format!("/api/v1/users/{}", made.body["id"].as_str().unwrap());
    second
        .patch(&path, json!({ "isOrgAdmin": true }))
        .await
        .assert_ok();
    // The link of a member sets no admin's password.
    let accept = json!({ "token": kept, "password": "another horse battery staple" });
    let accepted = app
        .anonymous()
        .post("/api/v1/auth/accept-invitation", accept)
        .await;
    assert_eq!(accepted.status.as_u16(), 401, "{}", accepted.text);
    app.advance(SignedDuration::from_secs(1));
    let find = |email: &str| {
        let found = |db: &_| latchkey::store::accounts::find_user_by_email(db, app.acme, email);
        app.services.store.read(found).unwrap().unwrap()
    };
    let puppet = find("puppet@acme.example");
    let id = asked(&app).await;
    approve(&app.caller(&puppet).await, &id)
        .await
        .assert_error(403, IN_HAND);
    // Whom the one who asked reset is no other person, either.
    let third = app.further("third", Role::OrgAdmin).await;
    let reset = admin.call(&format!("{}/reset-password", user_path(&third))).await;
    reset.assert_ok();
    app.advance(SignedDuration::from_secs(1));
    approve(&app.caller(&third).await, &id)
        .await
        .assert_error(403, IN_HAND);
    assert!(has_mfa(&app, &app.developer));
    // Nor is who had the account in hand another person than who asks with it.
    let reversed = app.caller(&puppet).await.reset(DEVELOPER).await;
    let reversed = reversed.assert_status(202)["approvalId"]
        .as_str()
        .unwrap()
        .to_owned();
    approve(&admin, &reversed).await.assert_error(403, IN_HAND);
    app.advance(SignedDuration::from_hours(7 * 24));
    let (id, admin) = (asked(&app).await, app.admin().await);
    approve(&admin, &reversed)
        .await
        .assert_error(409, "This has expired; ask for it again");
    approve(&app.caller(&puppet).await, &id).await.assert_ok();
    assert!(!has_mfa(&app, &app.developer));
}

/// Where no mail is sent, the link or code is shown to the approver and not to the requester.
#[tokio::test]
async fn whom_the_one_who_asks_agreed_to_reset_does_not_count_either() {
    for verb in ["reset-password", "reset-mfa"] {
        let app = app_where(AdminOnAdmin::SecondAdmin).await;
        let third = app.further("third", Role::OrgAdmin).await;
        let fourth = app.further("fourth", Role::OrgAdmin).await;
        let (admin, rogue) = (app.admin().await, app.caller(&third).await);
        let ask = async |caller: &Caller<'_>, target: &User, verb: &str| {
            let answer = caller.call(&format!("{}/{verb}", user_path(target))).await;
            let id = answer.assert_status(202)["approvalId"].as_str().unwrap();
            id.to_owned()
        };
        let id = ask(&admin, &app.second_admin, verb).await;
        approve(&rogue, &id).await.assert_ok();
        app.advance(SignedDuration::from_secs(1));
        let second = app.caller(&app.second_admin).await;
        let id = ask(&rogue, &app.admin, "reset-password").await;
        approve(&second, &id).await.assert_error(403, IN_HAND);
        // The approver does not count for requests made with that account, either.
        let reversed = ask(&second, &app.admin, "reset-password").await;
        approve(&rogue, &reversed).await.assert_error(403, IN_HAND);
        approve(&app.caller(&fourth).await, &id).await.assert_ok();
    }
}

/// Unlocking opens the enrolment window again, and shows a new code where one is required.
#[tokio::test]
async fn whom_the_one_who_asks_unlocked_does_not_count_either() {
    for (left_behind, change) in [
        ("locked_at = 1, locked_reason = 'a test'", "locked"),
        ("enrolment_due_until = 1", "enrolmentWindow"),
        (
            "enrolment_due_until = 4102444800000, enrolment_code_hash = x'00', \
             enrolment_code_expires_at = 4102444800000",
            "enrolmentCode",
        ),
    ] {
        let app = app_that_wants_admins(1).await;
        let third = app.further("third", Role::OrgAdmin).await;
        let admin = app.admin().await;
        let sql = format!("UPDATE user SET {left_behind} WHERE email = 'third@acme.example'");
        let change_it = move |tx: &latchkey::store::Transaction<'_>| Ok(tx.execute(&sql, [])?);
        assert_eq!(app.services.store.write(change_it).await.unwrap(), 1);
        let unlocked = admin.patch(&user_path(&third), json!({ "locked": false })).await;
        unlocked.assert_ok();
        assert!(app.last_entry()["details"]["changes"][change].is_string() || change == "locked");
        app.advance(SignedDuration::from_secs(1));
        let id = asked(&app).await;
        approve(&app.caller(&third).await, &id)
            .await
            .assert_error(403, IN_HAND);
        app.advance(SignedDuration::from_hours(7 * 24));
        let id = asked(&app).await;
        approve(&app.caller(&third).await, &id).await.assert_ok();
    }
}

#[tokio::test]
async fn who_agreed_before_is_no_other_person_than_whom_they_had_in_hand() {
    let app = app_that_wants_admins(2).await;
    let id = asked(&app).await;
    let second = app.caller(&app.second_admin).await;
    let third = app.further("third", Role::OrgAdmin).await;
    second
        .call(&format!("{}/reset-password", user_path(&third)))
        .await
        .assert_ok();
    app.advance(SignedDuration::from_secs(1));
    approve(&second, &id).await.assert_status(202);
    approve(&app.caller(&third).await, &id)
        .await
        .assert_error(403, IN_HAND);
    let fourth = app.further("fourth", Role::OrgAdmin).await;
    approve(&app.caller(&fourth).await, &id).await.assert_error(
        403,
        "You became an administrator after this was asked for; another one has to agree",
    );
    assert!(has_mfa(&app, &app.developer));
    // It takes no two to say no.
    reject(&app.caller(&third).await, &id).await.assert_ok();
}

/// Recovering a stolen account also voids the requests that were made with it.
#[tokio::test]
async fn what_was_asked_for_with_an_account_does_not_outlive_its_recovery() {
    for recovery in ["reset-mfa", "reset-password", "sessions", "isActive", "not-me"] {
        let app = app_that_wants_admins(1).await;
        let id = asked(&app).await;
        app.advance(SignedDuration::from_secs(1));
        recover(&app, recovery).await;
        let second = app.caller(&app.second_admin).await;
        let refused = approve(&second, &id).await;
        refused.assert_error(
            409,
            "The account that asked for this was reset, deactivated, signed out or reported since; ask for it again",
        );
        assert_eq!(state(&app, &id), "denied", "{recovery}");
        assert_eq!(app.last_entry()["details"]["closed"], true, "{recovery}");
        assert!(has_mfa(&app, &app.developer), "{recovery}");
        // Requests made after the recovery count.
        app.advance(SignedDuration::from_secs(1));
        let id = asked(&app).await;
        let again = approve(&second, &id).await;
        if let "sessions" | "isActive" = recovery {
            again.assert_ok();
        } else {
            again.assert_error(403, IN_HAND);
        }
    }
}

/// Recovering a stolen account also voids the approvals that were given with it.
#[tokio::test]
async fn what_was_agreed_to_with_an_account_does_not_outlive_its_recovery() {
    let app = app_that_wants_admins(2).await;
    let third = app.further("third", Role::OrgAdmin).await;
    let admin = app.admin().await;
    let id = asked(&app).await;
    approve(&app.caller(&app.second_admin).await, &id)
        .await
        .assert_status(202);
    app.advance(SignedDuration::from_secs(1));
    let path = format!("{}/sessions", user_path(&app.second_admin));
    admin.delete(&path).await.assert_ok();
    approve(&app.caller(&third).await, &id).await.assert_error(
        409,
        "An administrator who agreed before no longer counts; ask for it again",
    );
    assert!(has_mfa(&app, &app.developer));
}

/// Recovers the first admin's account in the given way, as the second admin or by the user's own report, and
/// makes it usable again.
async fn recover(app: &TestApp, how: &str) {
    let (second, path) = (app.caller(&app.second_admin).await, user_path(&app.admin));
    match how {
        "sessions" => {
            second.delete(&format!("{path}/sessions")).await.assert_ok();
        }
        "isActive" => {
            for active in [false, true] {
                let patch = json!({ "isActive": active });
                second.patch(&path, patch).await.assert_ok();
            }
        }
        "not-me" => {
            let at = app.services.clock.now();
            let (link, kept) = not_me::new_link(&app.services, &app.admin, at);
            let keep = move |tx: &latchkey::store::Transaction<'_>| {
                let until = kept.expires_at;
                challenges::insert_challenge(tx, kept.user, &kept.hash, Purpose::NotMe, None, at, until)
            };
            app.services.store.write(keep).await.unwrap();
            let token = link.split_once('#').unwrap().1;
            let report = json!({ "token": token });
            let reported = app.anonymous().post("/api/v1/auth/not-me", report).await;
            assert!(reported.status.is_success(), "{}", reported.text);
            second.patch(&path, json!({ "locked": false })).await.assert_ok();
        }
        "reset-mfa" => {
            let awaits = second.call(&format!("{path}/{how}")).await;
            let id = awaits.assert_status(202)["approvalId"].as_str().unwrap();
            let third = app.further("third", Role::OrgAdmin).await;
            app.execute("UPDATE user SET role_since = 0").await;
            approve(&app.caller(&third).await, id).await.assert_ok();
        }
        verb => {
            second.call(&format!("{path}/{verb}")).await.assert_ok();
        }
    }
}
