//! A folder to run the binary in, and servers that end with the test.

use std::cell::RefCell;
use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::net::{SocketAddr, TcpStream};
use std::path::PathBuf;
use std::process::{Child, Command, Output, Stdio};
use std::sync::mpsc::{Receiver, channel};
use std::time::{Duration, Instant};

use serde_json::Value;

/// The documented answer of a reset.
pub const RESET_DONE: &str = r#"{"message":"MFA reset successfully"}"#;
const PATIENCE: Duration = Duration::from_secs(60);

/// The path of a plugin that ships.
pub fn fixture(name: &str) -> String {
    format!("{}/fixtures/plugins/{name}.wasm", env!("CARGO_MANIFEST_DIR"))
}

/// A folder without a configuration, where nobody else works.
pub struct Desk {
    folder: tempfile::TempDir,
}

impl Desk {
    pub fn new() -> Self {
        Self {
            folder: tempfile::tempdir().unwrap(),
        }
    }

    /// Where there is one organisation.
    pub fn with_acme() -> Self {
        let desk = Self::new();
        desk.ok(&["org", "create", "acme"]);
        desk
    }

    pub fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    pub fn command(&self, args: &[&str]) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_latchkey"));
        command
            .args(args)
            .current_dir(self.folder.path())
            .stdin(Stdio::null());
        for (name, _) in std::env::vars_os() {
            if name.to_string_lossy().starts_with("LATCHKEY_") {
                command.env_remove(name);
            }
        }
        command
    }

    pub fn run(&self, args: &[&str]) -> Output {
        self.command(args).output().unwrap()
    }

    /// Standard output of a command that must succeed.
    pub fn ok(&self, args: &[&str]) -> String {
        let output = self.run(args);
        assert!(
            output.status.success(),
            "{args:?}: {}",
            String::from_utf8_lossy(&output.stderr)
        );
        String::from_utf8(output.stdout).unwrap()
    }

    pub fn json(&self, args: &[&str]) -> Value {
        serde_json::from_str(&self.ok(args)).unwrap()
    }

    /// Standard error of a command that must end with this code.
    #[track_caller]
    pub fn told(&self, code: i32, args: &[&str]) -> String {
        let output = self.run(args);
        let said = String::from_utf8(output.stderr).unwrap();
        assert_eq!(output.status.code(), Some(code), "{args:?}: {said}");
        said
    }

    /// The same of a `latchkey plugin …`.
    #[track_caller]
    pub fn plugin_told(&self, code: i32, args: &[&str]) -> String {
        self.told(code, &[&["plugin"], args].concat())
    }

    /// Starts the server at a free port.
    pub fn server(&self) -> Server {
        self.serve(&["serve", "--listen", "127.0.0.1:0"])
    }

    /// Starts the demo at a free port.
    pub fn demo(&self) -> Server {
        self.serve(&["demo", "--listen", "127.0.0.1:0"])
    }

    /// Starts a server and waits until it says where it listens.
    pub fn serve(&self, args: &[&str]) -> Server {
        self.serve_command(&mut self.command(args))
    }

    /// The same for a command that ends up as the server.
    pub fn serve_command(&self, command: &mut Command) -> Server {
        let mut child = command
            .current_dir(self.folder.path())
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let (lines, out) = channel();
        let stdout = BufReader::new(child.stdout.take().unwrap());
        std::thread::spawn(move || {
            stdout
                .lines()
                .map_while(Result::ok)
                .try_for_each(|line| lines.send(line))
        });
        let mut stderr = child.stderr.take().unwrap();
        let (done, log) = channel();
        std::thread::spawn(move || {
            let mut text = String::new();
            let _ = stderr.read_to_string(&mut text);
            done.send(text)
        });
        let server = Server {
            child: RefCell::new(child),
            out,
            said: RefCell::default(),
            log,
            address: RefCell::default(),
        };
        let line = server.line("Listening on http://");
        let address = line.trim_start_matches("Listening on http://").parse().unwrap();
        *server.address.borrow_mut() = Some(address);
        server
    }
}

/// A server that is killed when the test lets go of it.
pub struct Server {
    child: RefCell<Child>,
    out: Receiver<String>,
    said: RefCell<Vec<String>>,
    log: Receiver<String>,
    address: RefCell<Option<SocketAddr>>,
}

impl Server {
    pub fn address(&self) -> SocketAddr {
        self.address.borrow().unwrap()
    }

    /// The first line of standard output that begins so.
    pub fn line(&self, beginning: &str) -> String {
        let until = Instant::now() + PATIENCE;
        loop {
            if let Some(line) = self.said.borrow().iter().find(|line| line.starts_with(beginning)) {
                return line.clone();
            }
            match self
                .out
                .recv_timeout(until.saturating_duration_since(Instant::now()))
            {
                Ok(line) => self.said.borrow_mut().push(line),
                Err(late) => panic!(
                    "no line {beginning:?} ({late}); log: {:?}",
                    self.log.recv_timeout(PATIENCE)
                ),
            }
        }
    }

    pub fn connect(&self) -> Connection {
        let stream = TcpStream::connect(self.address()).unwrap();
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        Connection(stream)
    }

    pub fn accepts(&self) -> bool {
        TcpStream::connect(self.address()).is_ok()
    }

    /// Head and body of the answer.
    pub fn exchange(&self, method: &str, path: &str, token: Option<&str>, body: &str) -> (String, String) {
        let mut connection = self.connect();
        let token = token.map_or_else(String::new, |token| format!("Authorization: Bearer {token}\r\n"));
        let body = match body {
            "" => "\r\n".to_owned(),
            body => format!(
                "Content-Type: application/json\r\nContent-Length: {}\r\n\r\n{body}",
                body.len()
            ),
        };
        connection.send(&format!(
            "{method} {path} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n{token}{body}"
        ));
        let answer = connection.read_all();
        let (head, body) = answer
            .split_once("\r\n\r\n")
            .unwrap_or_else(|| panic!("no answer: {answer:?}"));
        (head.to_owned(), body.to_owned())
    }

    pub fn get(&self, path: &str, token: &str) -> String {
        self.exchange("GET", path, Some(token), "").1
    }

    pub fn post(&self, path: &str, body: &Value) -> String {
        self.exchange("POST", path, None, &body.to_string()).1
    }

    /// Runs a printed command in a shell, as somebody would who pastes it; without curl, does the
    /// same by hand.
    pub fn paste(&self, command: &str) -> String {
        let output = Command::new("sh").args(["-c", command]).output().unwrap();
        if output.status.code() != Some(127) {
            assert!(
                output.status.success(),
                "{}",
                String::from_utf8_lossy(&output.stderr)
            );
            return String::from_utf8(output.stdout).unwrap();
        }
        let path = &command[command.find("/api").unwrap()..];
        let token = command.rsplit_once("Bearer ").unwrap().1.trim_end_matches('\'');
        self.exchange("POST", path.split_whitespace().next().unwrap(), Some(token), "")
            .1
    }

    /// The message of an error's envelope.
    #[expect(clippy::unused_self, reason = "reads as: what this server answered")]
    pub fn message(&self, body: &str) -> String {
        let body: Value = serde_json::from_str(body).unwrap();
        body["message"].as_str().unwrap().to_owned()
    }

    pub fn signal(&self, name: &str) {
        let pid = self.child.borrow().id().to_string();
        assert!(
            Command::new("kill")
                .args(["-s", name, &pid])
                .status()
                .unwrap()
                .success()
        );
    }

    /// The exit code.
    pub fn wait(&self) -> Option<i32> {
        let until = Instant::now() + PATIENCE;
        while Instant::now() < until {
            if let Some(status) = self.child.borrow_mut().try_wait().unwrap() {
                return status.code();
            }
            std::thread::sleep(Duration::from_millis(20));
        }
        panic!("the server does not end");
    }

    /// Stops the server as a service manager would, and gives its log.
    pub fn stop(self) -> String {
        self.signal("TERM");
        assert_eq!(self.wait(), Some(0));
        self.log.recv_timeout(PATIENCE).unwrap()
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let mut child = self.child.borrow_mut();
        let _ = child.kill();
        let _ = child.wait();
    }
}

/// A connection to write to by hand.
pub struct Connection(pub TcpStream);

impl Connection {
    pub fn send(&mut self, text: &str) {
        self.0.write_all(text.as_bytes()).unwrap();
    }

    pub fn read_all(&mut self) -> String {
        let mut answer = Vec::new();
        let _ = self.0.read_to_end(&mut answer);
        String::from_utf8(answer).unwrap()
    }
}
