//! Mail over SMTP to a server that we did not write: aiosmtpd, which keeps what it takes in a Maildir. Without it the
//! test says so and ends; `LATCHKEY_AIOSMTPD=FOLDER` names where `pip install --target FOLDER aiosmtpd` put it.

#![expect(
    clippy::disallowed_methods,
    clippy::unwrap_used,
    reason = "a test may fail, and reads a variable"
)]

mod load_support;

use std::fs;
use std::net::{TcpListener, TcpStream};
use std::path::Path;
use std::process::{Child, Command};
use std::time::{Duration, Instant};

use load_support::{Server, reset, seed};

/// aiosmtpd, ended with the test.
struct Aiosmtpd(Child);

impl Aiosmtpd {
    fn start(libraries: &Path, port: u16, maildir: &Path) -> Self {
        let child = Command::new("python3")
            .args(["-m", "aiosmtpd", "-n", "-l"])
            .arg(format!("127.0.0.1:{port}"))
            .args(["-c", "aiosmtpd.handlers.Mailbox"])
            .arg(maildir)
            .env("PYTHONPATH", libraries)
            .spawn()
            .unwrap();
        let until = Instant::now() + Duration::from_secs(20);
        while TcpStream::connect(("127.0.0.1", port)).is_err() {
            assert!(Instant::now() < until, "aiosmtpd does not listen");
            std::thread::sleep(Duration::from_millis(50));
        }
        Self(child)
    }
}

impl Drop for Aiosmtpd {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

#[test]
fn a_reset_is_told_by_mail_through_a_server_that_others_wrote() {
    let Some(libraries) = std::env::var_os("LATCHKEY_AIOSMTPD") else {
        println!("skipped: there is no aiosmtpd here (pip install aiosmtpd)");
        return;
    };
    let folder = tempfile::tempdir().unwrap();
    let (data, maildir) = (folder.path().join("data"), folder.path().join("mail"));
    fs::create_dir(&data).unwrap();
    let seeded = seed::seed(&data, 1);
    let port = TcpListener::bind("127.0.0.1:0")
        .unwrap()
        .local_addr()
        .unwrap()
        .port();
    let written = port.to_string();
    let variables = [
        ("LATCHKEY_MAIL__HOST", "127.0.0.1"),
        ("LATCHKEY_MAIL__PORT", written.as_str()),
        ("LATCHKEY_MAIL__TLS", "none"),
    ];
    let server = Server::start(&data, &variables);
    // Nobody takes mail yet: the reset is done all the same, and what it owes is sent later.
    assert_eq!(
        reset(&server.address, &seeded.admins[0], seeded.users[0]),
        Some(200)
    );
    let _smtp = Aiosmtpd::start(Path::new(&libraries), port, &maildir);
    let until = Instant::now() + Duration::from_secs(60);
    let user = seeded.users[0].simple().to_string();
    let mail = loop {
        let files = fs::read_dir(maildir.join("new")).into_iter().flatten();
        let mails = files.map(|file| fs::read_to_string(file.unwrap().path()).unwrap());
        if let Some(mail) = mails.into_iter().find(|mail| mail.contains(&user)) {
            break mail;
        }
        assert!(Instant::now() < until, "no mail arrived");
        std::thread::sleep(Duration::from_millis(100));
    };
    let head = mail.split("\n\n").next().unwrap();
    for field in ["From: ", "Subject: ", "Date: ", "Message-ID: ", "X-RcptTo: "] {
        assert!(head.contains(field), "{field}: {head}");
    }
    assert!(head.contains(&format!("To: {user}@load.example")), "{head}");
    println!(
        "{}",
        head.lines().find(|line| line.starts_with("Subject: ")).unwrap()
    );
}
