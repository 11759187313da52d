//! The public formats, read by an implementation that is not ours, and their published vectors.

use std::process::Command;

use latchkey::domain::audit::tree::parent_hash;
use latchkey::domain::audit::{ActorRef, CheckpointError, Hash32, LogKey, LogKeys, Verifier};
use latchkey::service::trail::{self, Format, Selection};

use crate::support::{DEVELOPER, TestApp};

/// With `python3 -m venv v && v/bin/pip install aics-tlog` and `v/bin` first in the PATH it runs;
/// without, it says so and passes.
#[tokio::test]
async fn another_implementation_agrees() {
    let app = TestApp::new().await;
    trail::checkpoint(&app.services).await.unwrap();
    let admin = app.admin().await;
    admin.reset(DEVELOPER).await.assert_ok();
    trail::checkpoint(&app.services).await.unwrap();
    admin.reset(DEVELOPER).await;
    let sequence = trail::size(&app.services).unwrap() - 2;
    let receipt = trail::receipt(&app.services, sequence).await.unwrap();
    let mut export = Vec::new();
    trail::export(
        &app.services,
        ActorRef::operator(),
        &Selection::default(),
        Format::Ndjson,
        &mut export,
        |_, _| {},
    )
    .await
    .unwrap();
    let keys = trail::log_keys(&app.services).await.unwrap().to_string();
    let dir = tempfile::tempdir().unwrap();
    let file = |name: &str, content: &[u8]| {
        let path = dir.path().join(name);
        std::fs::write(&path, content).unwrap();
        path
    };
    let script = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/api/second_opinion.py");
    let output = Command::new("python3")
        .arg(script)
        .arg(file("keys", keys.as_bytes()))
        .arg(file("export", &export))
        .arg(file("receipt", receipt.as_bytes()))
        .output();
    let Ok(output) = output else {
        println!("skipped: there is no python3");
        return;
    };
    let said = String::from_utf8_lossy(&output.stdout);
    println!("{said}");
    assert!(
        output.status.success(),
        "{said}{}",
        String::from_utf8_lossy(&output.stderr)
    );
    assert!(
        said.starts_with("agreed: ") || said.starts_with("skipped: "),
        "{said}"
    );
}

/// The roots over the first 0 to 8 of the test leaves of the Certificate Transparency project
/// (`merkletree/merkle_tree_test.cc`), which RFC 6962 §2.1 grew out of.
#[test]
fn the_trees_of_certificate_transparency() {
    let inputs = [
        "",
        "00",
        "10",
        "2021",
        "3031",
        "40414243",
        "5051525354555657",
        "606162636465666768696a6b6c6d6e6f",
    ];
    let roots = [
        "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855",
        "6e340b9cffb37a989ca544e6bb780a2c78901d3fb33738768511a30617afa01d",
        "fac54203e7cc696cf0dfcb42c92a1d9dbaf70ad9e621f4bd8d98662f00e3c125",
        "aeb6bcfe274b70a14fb067a5e5578264db0fa9b51af5e0ba159158f329e06e77",
        "d37ee418976dd95753c1c73862b9398fa2a2cf9b4ff0fdfe8b30cd95209614b7",
        "4e3bbb1f7b478dcfe71fb631631519a3bca12c9aefca1612bfce4c13a86264d4",
        "76e67dadbcdf1e10e1b74ddc608abd2f98dfb16fbce75277b5232a127f2087ef",
        "ddb89be403809e325750d3d263cd78929c2942b7942a34b77e122c9594a74c8c",
        "5dc9da79a70659a9ad559cb701ded9a2ab9d823aad2f4960cfe370eff4604328",
    ];
    let leaves: Vec<Hash32> = inputs
        .iter()
        .map(|input| tlog_tiles::record_hash(&hex::decode(input).unwrap()).0)
        .collect();
    for (size, root) in roots.iter().enumerate() {
        // The same machinery that checks an export: the leaves as subtrees of one place each.
        let mut verifier = Verifier::new(Vec::new(), false);
        for (at, leaf) in leaves[..size].iter().enumerate() {
            let at = at as u64;
            verifier.gap(at, at + 1, &[*leaf]).unwrap();
        }
        assert_eq!(verifier.finish().root.as_deref(), Some(*root), "{size} leaves");
    }
    let pair = parent_hash(leaves[0], leaves[1]);
    assert_eq!(hex::encode(pair), roots[2]);
}

/// The example of C2SP signed-note.
#[test]
fn the_note_of_c2sp() {
    let key = "PeterNeumann+c74f20a3+ARpc2QcUPDhMQegwxbzhKqiBfsVkmqq/LDE4izWy10TW";
    let note = "If you think cryptography is the answer to your problem,\n\
                then you don't know what your problem is.\n\
                \n\
                — PeterNeumann x08go/ZJkuBS9UG/SffcvIAQxVBtiFupLLr8pAcElZInNIuGUgYN1FFYC2pZSNXgKvqfqdngotpRZb6KE6RyyBwJnAM=\n";
    let keys = LogKeys::new(vec![LogKey::parse(key).unwrap()]);
    // A good note, and no checkpoint: it must not be taken for one.
    assert_eq!(keys.open(note), Err(CheckpointError::Malformed));
    let verifier =
        signed_note::VerifierList::new(vec![Box::new(signed_note::StandardVerifier::new(key).unwrap())]);
    let parsed = signed_note::Note::from_bytes(note.as_bytes()).unwrap();
    assert!(parsed.verify(&verifier).is_ok());
    assert!(LogKey::parse(&key.replace("c74f20a3", "c74f20a4")).is_err());
}
