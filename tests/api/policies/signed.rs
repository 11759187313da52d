//! A signature where no key is trusted: it has to be one, and that nobody checked it is said.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use minisign::KeyPair;
use serde_json::Value;

use crate::guests::before;
use crate::plugins::PLUGINS;
use crate::support::TestApp;

const HEADER: &str = "X-Plugin-Signature";

#[tokio::test]
async fn a_signature_that_nobody_can_check_is_well_formed_and_said_to_be_unchecked() {
    let app = TestApp::new().await;
    let admin = app.admin().await;
    let module = before("(i32.const 512)");
    let nonsense = STANDARD.encode("nonsense");
    let refused = admin
        .upload(PLUGINS, module.clone(), &[(HEADER, &nonsense)])
        .await;
    assert_eq!(refused.status.as_u16(), 400, "{}", refused.text);
    let message = refused.body["message"].as_str().unwrap();
    assert!(message.contains("[signature-malformed]"), "{message}");
    assert_eq!(app.count("SELECT count(*) FROM module"), 0);

    let pair = KeyPair::generate_unencrypted_keypair().unwrap();
    let signature = minisign::sign(None, &pair.sk, &b"another file"[..], None, None).unwrap();
    let signature = STANDARD.encode(signature.into_string());
    for status in [201, 200] {
        let installed = admin
            .upload(PLUGINS, module.clone(), &[(HEADER, &signature)])
            .await;
        assert_eq!(installed.status.as_u16(), status, "{}", installed.text);
        assert_eq!(installed.body["signedBy"], Value::Null);
        let warning = installed.body["warning"].as_str().unwrap();
        assert!(warning.contains("plugins.trusted_keys"), "{warning}");
    }
    let plain = admin.upload(PLUGINS, module, &[]).await;
    assert_eq!(plain.body["warning"], Value::Null, "{}", plain.text);
}
