//! Resets the MFA of one user:  cargo run --example reset_mfa -- dev.raman@juniper.example "Lost phone"

use std::env::{args, var};
use std::io::stdin;

use anyhow::Context as _;
use latchkey_client::types::{LoginRequest, ResetMfaRequest};
use latchkey_client::{retrying, sign_in};

#[tokio::main]
async fn main() -> anyhow::Result<()> {
    let email = args().nth(1).context("usage: reset_mfa EMAIL [REASON]")?;
    let who = LoginRequest {
        organization_slug: var("LATCHKEY_ORGANIZATION")?.parse()?,
        email: var("LATCHKEY_EMAIL")?.parse()?,
        password: var("LATCHKEY_PASSWORD")?.parse()?,
    };
    let (client, _) = sign_in(&var("LATCHKEY_URL")?, who, || {
        eprint!("Code of your authenticator app: ");
        stdin().lines().next().and_then(Result::ok).unwrap_or_default()
    })
    .await?;
    let users = client.list_users(None, Some(&email.parse()?), None).await?.into_inner();
    let user = users.into_iter().find(|user| user.email == email).context("nobody has this address")?;
    let body = ResetMfaRequest { reason: args().nth(2).map(|reason| reason.parse()).transpose()?, ticket: None };
    // The same key for every attempt: however often it is sent, there is one reset.
    let key = uuid::Uuid::new_v4().to_string();
    let outcome = retrying(4, async || Ok(client.reset_mfa(&user.id, None, Some(&key), None, &body).await?)).await?;
    println!("{}", outcome.message);
    // Shown only now: a repeat of the call does not have the code.
    if let Some(code) = &outcome.enrolment_code {
        println!("Code for the user, in person or by phone: {code}");
    }
    if let Some(approval) = &outcome.approval_id {
        println!("Another administrator must approve it: approval {approval}");
    }
    Ok(())
}
