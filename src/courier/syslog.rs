//! Writes syslog messages (RFC 5424) over UDP (RFC 5426), TCP with octet counting (RFC 6587 §3.4.1) and
//! sockets of the same machine.

use std::fmt;
use std::path::PathBuf;
use std::time::Duration;

use jiff::Timestamp;
use syslog_fmt::Facility;
pub use syslog_fmt::Severity;
use syslog_fmt::v5424::{Config, Formatter, Timestamp as Written};
use tokio::io::AsyncWriteExt as _;
use tokio::net::{TcpStream, UdpSocket, UnixDatagram, UnixStream};
use tokio::sync::Mutex;
use tokio::time::timeout;

use super::{Undelivered, told};

const TIMEOUT: Duration = Duration::from_secs(10);
/// Longest UDP payload: 65,535 bytes minus the headers of IPv4 (RFC 791) and UDP (RFC 768).
const LONGEST_DATAGRAM: usize = 65_507;
/// Linux errno for a datagram that is longer than the socket can send.
const EMSGSIZE: i32 = 90;

/// The destination of syslog messages.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum SyslogTarget {
    /// `udp://HOST:PORT`, usually port 514.
    Udp(String),
    /// `tcp://HOST:PORT`, usually port 601.
    Tcp(String),
    /// `unix:PATH`, usually `/dev/log`.
    Unix(PathBuf),
}

impl SyslogTarget {
    /// Parses a target.
    ///
    /// # Errors
    /// What is wrong with it, as a sentence without a subject.
    pub fn parse(text: &str) -> Result<Self, &'static str> {
        const FORM: &str = "is not udp://HOST:PORT, tcp://HOST:PORT or unix:/PATH";
        if let Some(path) = text.strip_prefix("unix:") {
            return if path.starts_with('/') {
                Ok(Self::Unix(path.into()))
            } else {
                Err(FORM)
            };
        }
        let (scheme, place) = text.split_once("://").ok_or(FORM)?;
        let port = place.rsplit_once(':').filter(|(host, _)| !host.is_empty());
        if port.and_then(|(_, port)| port.parse::<u16>().ok()).is_none() {
            return Err(FORM);
        }
        match scheme {
            "udp" => Ok(Self::Udp(place.to_owned())),
            "tcp" => Ok(Self::Tcp(place.to_owned())),
            _ => Err(FORM),
        }
    }
}

impl fmt::Display for SyslogTarget {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Udp(place) => write!(f, "udp://{place}"),
            Self::Tcp(place) => write!(f, "tcp://{place}"),
            Self::Unix(path) => write!(f, "unix:{}", path.display()),
        }
    }
}

/// A syslog message. Control characters in it are replaced with spaces.
#[derive(Clone, Copy, Debug)]
pub struct SyslogMessage<'a> {
    /// When the reported event happened.
    pub at: Timestamp,
    /// Severity of the event.
    pub severity: Severity,
    /// MSGID: the kind of message, at most 32 visible ASCII characters.
    pub kind: &'a str,
    /// STRUCTURED-DATA: the element's id (`name@enterprise-number`) and its parameters.
    pub data: Option<(&'a str, &'a [(&'a str, String)])>,
    /// MSG: the text.
    pub text: &'a str,
}

/// Writes to one target.
pub(super) struct Syslog {
    target: SyslogTarget,
    formatter: Formatter,
    /// Connection of a stream socket, kept until it fails.
    stream: Mutex<Option<Stream>>,
}

enum Stream {
    Tcp(TcpStream),
    Unix(UnixStream),
}

impl fmt::Debug for Syslog {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Syslog").field(&self.target).finish()
    }
}

impl Syslog {
    pub(super) fn new(target: SyslogTarget) -> Self {
        let host = host_name();
        let process = std::process::id().to_string();
        let formatter = Config {
            // The facility for security messages that not everybody may read.
            facility: Facility::Authpriv,
            hostname: host.as_deref(),
            app_name: Some("latchkey"),
            proc_id: Some(&process),
        }
        .into_formatter();
        Self {
            target,
            formatter,
            stream: Mutex::new(None),
        }
    }

    pub(super) async fn write(&self, message: &SyslogMessage<'_>) -> Result<(), Undelivered> {
        let text = self.format(message).map_err(|e| Undelivered::Never(told(&e)))?;
        if matches!(self.target, SyslogTarget::Udp(_)) && text.len() > LONGEST_DATAGRAM {
            return Err(too_long(text.len()));
        }
        match timeout(TIMEOUT, self.send(&text)).await {
            Ok(Ok(())) => Ok(()),
            Ok(Err(error)) if error.raw_os_error() == Some(EMSGSIZE) => Err(too_long(text.len())),
            Ok(Err(error)) => Err(Undelivered::Later(told(&error))),
            Err(_) => {
                *self.stream.lock().await = None;
                Err(Undelivered::Later("the syslog target does not read".into()))
            }
        }
    }

    fn format(&self, message: &SyslogMessage<'_>) -> std::io::Result<Vec<u8>> {
        let mut bytes = Vec::new();
        let at = format!("{:.3}", message.at);
        let text: String = message.text.chars().map(visible).collect();
        let kind: String = message
            .kind
            .chars()
            .filter(char::is_ascii_graphic)
            .take(32)
            .collect();
        let values: Vec<(&str, String)> = message
            .data
            .iter()
            .flat_map(|(_, parameters)| parameters.iter())
            .map(|(name, value)| (*name, value.chars().map(visible).collect()))
            .collect();
        let parameters = values.iter().map(|(name, value)| (*name, value.as_str()));
        let elements = message.data.map(|(id, _)| (id, parameters));
        self.formatter.write_with_data(
            &mut bytes,
            message.severity,
            Written::PreformattedStr(&at),
            text.as_str(),
            Some(&kind).filter(|kind| !kind.is_empty()).map(String::as_str),
            elements,
        )?;
        Ok(bytes)
    }

    async fn send(&self, text: &[u8]) -> std::io::Result<()> {
        match &self.target {
            SyslogTarget::Udp(place) => {
                let to = tokio::net::lookup_host(place.as_str()).await?.next();
                let to = to.ok_or(std::io::ErrorKind::NotFound)?;
                let from = if to.is_ipv4() { "0.0.0.0:0" } else { "[::]:0" };
                UdpSocket::bind(from).await?.send_to(text, to).await?;
                Ok(())
            }
            SyslogTarget::Unix(path) => {
                // /dev/log is a datagram socket; those of other daemons are streams.
                let socket = UnixDatagram::unbound()?;
                match socket.connect(path) {
                    Ok(()) => socket.send(text).await.map(drop),
                    Err(_) => self.send_framed(text).await,
                }
            }
            SyslogTarget::Tcp(_) => self.send_framed(text).await,
        }
    }

    /// Writes over a connection that is kept open. A connection that the other side closed would be noticed
    /// only at the second write, so it is checked before use.
    async fn send_framed(&self, text: &[u8]) -> std::io::Result<()> {
        let mut framed = format!("{} ", text.len()).into_bytes();
        framed.extend_from_slice(text);
        let mut kept = self.stream.lock().await;
        let mut stream = match kept.take().filter(Stream::is_open) {
            Some(stream) => stream,
            None => self.connect().await?,
        };
        match &mut stream {
            Stream::Tcp(stream) => stream.write_all(&framed).await?,
            Stream::Unix(stream) => stream.write_all(&framed).await?,
        }
        *kept = Some(stream);
        Ok(())
    }

    async fn connect(&self) -> std::io::Result<Stream> {
        Ok(match &self.target {
            SyslogTarget::Unix(path) => Stream::Unix(UnixStream::connect(path).await?),
            SyslogTarget::Tcp(place) | SyslogTarget::Udp(place) => {
                Stream::Tcp(TcpStream::connect(place.as_str()).await?)
            }
        })
    }
}

impl Stream {
    /// Returns whether the connection is still open. A syslog target never sends anything, so readable means
    /// closed.
    fn is_open(&self) -> bool {
        let mut byte = [0];
        let read = match self {
            Self::Tcp(stream) => stream.try_read(&mut byte),
            Self::Unix(stream) => stream.try_read(&mut byte),
        };
        read.is_err_and(|error| error.kind() == std::io::ErrorKind::WouldBlock)
    }
}

fn too_long(bytes: usize) -> Undelivered {
    Undelivered::Never(format!("{bytes} bytes are more than one datagram takes"))
}

fn visible(c: char) -> char {
    if c.is_control() { ' ' } else { c }
}

/// Returns the host name, as the kernel has it.
fn host_name() -> Option<String> {
    let name = std::fs::read_to_string("/proc/sys/kernel/hostname").ok()?;
    let name: String = name.trim().chars().filter(char::is_ascii_graphic).collect();
    (!name.is_empty()).then_some(name)
}
