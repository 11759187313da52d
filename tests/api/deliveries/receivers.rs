//! A mail server and a webhook receiver, real ones, on this machine.

use std::collections::VecDeque;
use std::io::{BufRead as _, BufReader, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::{Arc, Condvar, Mutex};
use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};

/// The only password that the mail server takes.
pub const MAIL_PASSWORD: &str = "a mail password";

/// A mail as it arrived.
#[derive(Clone, Debug)]
pub struct Received {
    pub to: Vec<String>,
    /// Head, unfolded.
    pub head: String,
    /// Text, decoded.
    pub text: String,
}

impl Received {
    pub fn header(&self, name: &str) -> &str {
        let begins = format!("{}:", name.to_lowercase());
        let line = self
            .head
            .lines()
            .find(|line| line.to_lowercase().starts_with(&begins));
        line.map_or("", |line| line[begins.len()..].trim())
    }
}

/// A mail server.
#[derive(Clone)]
pub struct MailServer {
    pub address: SocketAddr,
    shared: Arc<Shared>,
}

#[derive(Default)]
struct Shared {
    received: Mutex<Vec<Received>>,
    arrived: Condvar,
    /// What the next mails are answered with, before it is OK again.
    answers: Mutex<VecDeque<String>>,
    /// Whoever has no password may send nothing then.
    tls: Option<Arc<rustls::ServerConfig>>,
    /// Mails are taken and never answered.
    mute: Mutex<bool>,
}

impl MailServer {
    pub fn start() -> Self {
        Self::serve(Shared::default())
    }

    /// With this certificate, and only for whoever knows [`MAIL_PASSWORD`].
    pub fn with_tls(certificate: CertificateDer<'static>, key: PrivateKeyDer<'static>) -> Self {
        let config =
            rustls::ServerConfig::builder_with_provider(rustls::crypto::aws_lc_rs::default_provider().into())
                .with_safe_default_protocol_versions()
                .expect("versions")
                .with_no_client_auth()
                .with_single_cert(vec![certificate], key)
                .expect("a certificate");
        Self::serve(Shared {
            tls: Some(Arc::new(config)),
            ..Shared::default()
        })
    }

    fn serve(shared: Shared) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
        let this = Self {
            address: listener.local_addr().expect("an address"),
            shared: Arc::new(shared),
        };
        let shared = Arc::clone(&this.shared);
        // Ends with the test process.
        std::thread::spawn(move || {
            for stream in listener.incoming() {
                let Ok(stream) = stream else { return };
                let shared = Arc::clone(&shared);
                std::thread::spawn(move || {
                    let conversation = Conversation {
                        shared,
                        stream: Box::new(stream.try_clone().expect("a stream")),
                        secure: false,
                        logged_in: false,
                        to: Vec::new(),
                    };
                    // A client that goes away in the middle is no matter of the server's.
                    let _ = conversation.hold(&stream);
                });
            }
        });
        this
    }

    /// Answers the next mails with these codes.
    pub fn answer_next(&self, codes: impl IntoIterator<Item = u16>) {
        self.say_next(codes.into_iter().map(|code| format!("{code} not now")));
    }

    /// Answers the next mails with these lines.
    pub fn say_next(&self, lines: impl IntoIterator<Item = impl Into<String>>) {
        let lines = lines.into_iter().map(Into::into);
        self.shared.answers.lock().expect("answers").extend(lines);
    }

    /// Takes mails and never says so, as a server does that is killed at that moment.
    pub fn be_mute(&self, mute: bool) {
        *self.shared.mute.lock().expect("mute") = mute;
    }

    pub fn received(&self) -> Vec<Received> {
        self.shared.received.lock().expect("mails").clone()
    }

    /// Waits until so many mails have arrived.
    pub fn wait_for(&self, count: usize) -> Vec<Received> {
        let received = self.shared.received.lock().expect("mails");
        let patience = Duration::from_secs(30);
        let (received, timeout) = self
            .shared
            .arrived
            .wait_timeout_while(received, patience, |received| received.len() < count)
            .expect("mails");
        assert!(
            !timeout.timed_out(),
            "{} of {count} mails arrived",
            received.len()
        );
        received.clone()
    }
}

/// A conversation with one client (RFC 5321), over a plain or an encrypted connection.
struct Conversation {
    shared: Arc<Shared>,
    stream: Box<dyn Stream>,
    secure: bool,
    logged_in: bool,
    to: Vec<String>,
}

trait Stream: Read + Write + Send {}
impl<T: Read + Write + Send> Stream for T {}

impl Conversation {
    /// Until the client leaves.
    fn hold(mut self, plain: &TcpStream) -> std::io::Result<()> {
        self.say("220 mail.test ESMTP")?;
        loop {
            let line = self.hear()?;
            let (verb, rest) = line.split_once(' ').unwrap_or((&line, ""));
            match verb.to_ascii_uppercase().as_str() {
                "EHLO" => {
                    self.say("250-mail.test")?;
                    if self.shared.tls.is_some() {
                        self.say(if self.secure {
                            "250-AUTH PLAIN"
                        } else {
                            "250-STARTTLS"
                        })?;
                    }
                    self.say("250 8BITMIME")?;
                }
                "STARTTLS" => {
                    let config = self.shared.tls.clone().expect("offered only with a certificate");
                    self.say("220 go on")?;
                    let connection = rustls::ServerConnection::new(config).expect("a configuration");
                    self.stream = Box::new(rustls::StreamOwned::new(connection, plain.try_clone()?));
                    self.secure = true;
                }
                "AUTH" => {
                    let secret = rest.strip_prefix("PLAIN ").unwrap_or_default();
                    self.logged_in = secret == STANDARD.encode(format!("\0latchkey\0{MAIL_PASSWORD}"));
                    self.say(if self.logged_in {
                        "235 welcome"
                    } else {
                        "535 wrong"
                    })?;
                }
                "MAIL" if self.shared.tls.is_some() && !self.logged_in => self.say("530 log in first")?,
                "RCPT" if rest.contains("nobody@") => self.say("550 Mailbox unavailable")?,
                "RCPT" => {
                    let to = rest.split(['<', '>']).nth(1).unwrap_or_default().to_owned();
                    self.to.push(to);
                    self.say("250 OK")?;
                }
                "DATA" => {
                    self.say("354 go on")?;
                    let answer = self.take()?;
                    self.say(&answer)?;
                }
                "QUIT" => return self.say("221 bye"),
                _ => self.say("250 OK")?,
            }
        }
    }

    /// Takes a mail and gives the line to answer it with.
    fn take(&mut self) -> std::io::Result<String> {
        let mut lines = Vec::new();
        loop {
            let line = self.hear()?;
            if line == "." {
                break;
            }
            lines.push(line.strip_prefix('.').map_or(line.clone(), str::to_owned));
        }
        let text = lines.join("\r\n");
        let (head, body) = text.split_once("\r\n\r\n").expect("head and body");
        let head = head.replace("\r\n ", " ").replace("\r\n\t", " ");
        let quoted = head
            .to_lowercase()
            .contains("content-transfer-encoding: quoted-printable");
        let body = if quoted {
            let bytes = quoted_printable::decode(body, quoted_printable::ParseMode::Robust).expect("quoted");
            String::from_utf8(bytes).expect("UTF-8")
        } else {
            body.to_owned()
        };
        self.shared.received.lock().expect("mails").push(Received {
            to: std::mem::take(&mut self.to),
            head,
            text: body.replace("\r\n", "\n"),
        });
        self.shared.arrived.notify_all();
        while *self.shared.mute.lock().expect("mute") {
            std::thread::sleep(Duration::from_millis(20));
        }
        Ok(self
            .shared
            .answers
            .lock()
            .expect("answers")
            .pop_front()
            .unwrap_or_else(|| "250 OK".to_owned()))
    }

    fn say(&mut self, line: &str) -> std::io::Result<()> {
        write!(self.stream, "{line}\r\n")?;
        self.stream.flush()
    }

    fn hear(&mut self) -> std::io::Result<String> {
        let mut line = Vec::new();
        let mut byte = [0];
        while !line.ends_with(b"\r\n") {
            self.stream.read_exact(&mut byte)?;
            line.push(byte[0]);
        }
        line.truncate(line.len() - 2);
        Ok(String::from_utf8(line).expect("UTF-8"))
    }
}

/// A call as it arrived.
#[derive(Clone, Debug)]
pub struct Call {
    pub request: String,
    pub headers: poem::http::HeaderMap,
    pub body: String,
}

/// A webhook receiver.
#[derive(Clone)]
pub struct Receiver {
    pub address: SocketAddr,
    calls: Arc<Mutex<Vec<Call>>>,
    answers: Arc<Mutex<VecDeque<String>>>,
}

impl Receiver {
    pub fn start() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
        let this = Self {
            address: listener.local_addr().expect("an address"),
            calls: Arc::default(),
            answers: Arc::default(),
        };
        let (calls, answers) = (Arc::clone(&this.calls), Arc::clone(&this.answers));
        std::thread::spawn(move || {
            for stream in listener.incoming() {
                let Ok(mut stream) = stream else { return };
                let mut reader = BufReader::new(stream.try_clone().expect("a stream"));
                let mut request = String::new();
                if reader.read_line(&mut request).unwrap_or(0) == 0 {
                    continue;
                }
                let mut headers = poem::http::HeaderMap::new();
                loop {
                    let mut line = String::new();
                    reader.read_line(&mut line).expect("a line");
                    let Some((name, value)) = line.trim_end().split_once(':') else {
                        break;
                    };
                    let name: poem::http::HeaderName = name.parse().expect("a name");
                    headers.insert(name, value.trim().parse().expect("a value"));
                }
                let length = headers
                    .get("content-length")
                    .and_then(|v| v.to_str().ok()?.parse().ok());
                let mut body = vec![0; length.unwrap_or(0)];
                reader.read_exact(&mut body).expect("a body");
                calls.lock().expect("calls").push(Call {
                    request: request.trim_end().to_owned(),
                    headers,
                    body: String::from_utf8(body).expect("UTF-8"),
                });
                let answer = answers.lock().expect("answers").pop_front();
                let answer = answer.unwrap_or_else(|| "204 No Content".into());
                let _ = write!(
                    stream,
                    "HTTP/1.1 {answer}\r\ncontent-length: 0\r\nconnection: close\r\n\r\n"
                );
            }
        });
        this
    }

    /// Answers the next calls with these status lines (and headers).
    pub fn answer_next(&self, answers: &[&str]) {
        let answers = answers.iter().map(ToString::to_string);
        self.answers.lock().expect("answers").extend(answers);
    }

    pub fn calls(&self) -> Vec<Call> {
        self.calls.lock().expect("calls").clone()
    }

    pub fn url(&self) -> String {
        format!("http://{}/latchkey", self.address)
    }
}
