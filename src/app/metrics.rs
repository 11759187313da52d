//! Serves metrics to the operator's collector: only `GET /metrics`, on an address of its own, so that no rule
//! of a proxy in front of the API can expose it by mistake.

use std::convert::Infallible;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context as _, Result};
use http_body_util::Full;
use hyper::body::{Bytes, Incoming};
use hyper::header::{ALLOW, AUTHORIZATION, CONTENT_TYPE, HeaderName, WWW_AUTHENTICATE};
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper::{Method, Request, Response, StatusCode};
use hyper_util::rt::TokioIo;
use subtle::ConstantTimeEq as _;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Semaphore;
use tokio::task::JoinHandle;
use tokio::time::{sleep, timeout};
use zeroize::Zeroizing;

use crate::config::MetricsConfig;
use crate::service::{Services, metrics};

/// Most connections at a time.
const MOST_CONNECTIONS: usize = 8;
/// How long one connection may take, from its start to the last byte read.
const TIME: Duration = Duration::from_secs(10);

/// The open listener; dropping it closes the address.
pub(super) struct Served {
    accepting: JoinHandle<()>,
    address: SocketAddr,
}

impl Drop for Served {
    fn drop(&mut self) {
        self.accepting.abort();
        tracing::debug!(address = %self.address, "metrics are no longer served");
    }
}

/// Listens and answers until the result is dropped.
pub(super) async fn open(config: &MetricsConfig, services: &Arc<Services>) -> Result<Served> {
    let listener = TcpListener::bind(config.listen)
        .await
        .with_context(|| format!("metrics.listen: could not listen on {}", config.listen))?;
    let address = listener.local_addr()?;
    tracing::info!(%address, "metrics are served");
    let collector = Arc::new(Collector {
        services: Arc::clone(services),
        token: config.token.clone(),
    });
    Ok(Served {
        accepting: tokio::spawn(accept(listener, collector)),
        address,
    })
}

async fn accept(listener: TcpListener, collector: Arc<Collector>) {
    let places = Arc::new(Semaphore::new(MOST_CONNECTIONS));
    loop {
        let stream = match listener.accept().await {
            Ok((stream, _)) => stream,
            Err(error) => {
                tracing::warn!(%error, "could not accept a connection for metrics; retrying in a second");
                sleep(Duration::from_secs(1)).await;
                continue;
            }
        };
        let Ok(place) = Arc::clone(&places).try_acquire_owned() else {
            continue; // closes the connection; a collector tries again
        };
        let collector = Arc::clone(&collector);
        tokio::spawn(async move {
            // A collector that went away or was too slow is not worth a log line.
            let _ = timeout(TIME, collector.connection(stream)).await;
            drop(place);
        });
    }
}

struct Collector {
    services: Arc<Services>,
    token: Option<Zeroizing<String>>,
}

impl Collector {
    async fn connection(self: Arc<Self>, stream: TcpStream) -> hyper::Result<()> {
        let answer = service_fn(move |request| {
            let collector = Arc::clone(&self);
            async move { Ok::<_, Infallible>(collector.answer(&request).await) }
        });
        http1::Builder::new()
            .keep_alive(false)
            .max_buf_size(8 << 10)
            .serve_connection(TokioIo::new(stream), answer)
            .await
    }

    async fn answer(self: Arc<Self>, request: &Request<Incoming>) -> Response<Full<Bytes>> {
        if !self.knows(request) {
            let header = (WWW_AUTHENTICATE, "Bearer realm=\"metrics\"");
            return said(
                StatusCode::UNAUTHORIZED,
                header,
                "The bearer token of metrics.token_file is required\n".into(),
            );
        }
        if request.uri().path() != "/metrics" {
            return said(StatusCode::NOT_FOUND, PLAIN, "Only /metrics exists here\n".into());
        }
        if request.method() != Method::GET {
            return said(
                StatusCode::METHOD_NOT_ALLOWED,
                (ALLOW, "GET"),
                "Only GET is supported\n".into(),
            );
        }
        let written = tokio::task::spawn_blocking(move || metrics::exposition(&self.services)).await;
        match written.map_err(|error| error.to_string()) {
            Ok(Ok(text)) => said(StatusCode::OK, (CONTENT_TYPE, FORMAT), text),
            failed => {
                tracing::error!(?failed, "could not collect metrics");
                said(
                    StatusCode::INTERNAL_SERVER_ERROR,
                    PLAIN,
                    "Could not collect metrics; the log has the cause\n".into(),
                )
            }
        }
    }

    fn knows(&self, request: &Request<Incoming>) -> bool {
        let Some(token) = &self.token else { return true };
        let shown = request.headers().get(AUTHORIZATION);
        let shown = shown.and_then(|value| value.as_bytes().strip_prefix(b"Bearer "));
        shown.is_some_and(|shown| shown.ct_eq(token.as_bytes()).into())
    }
}

fn said(
    status: StatusCode,
    (name, value): (HeaderName, &'static str),
    text: String,
) -> Response<Full<Bytes>> {
    let mut response = Response::new(Full::new(Bytes::from(text)));
    *response.status_mut() = status;
    response
        .headers_mut()
        .insert(name, hyper::header::HeaderValue::from_static(value));
    response
}

const FORMAT: &str = "text/plain; version=0.0.4; charset=utf-8";
const PLAIN: (HeaderName, &str) = (CONTENT_TYPE, "text/plain; charset=utf-8");

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

    use super::*;
    use crate::app::App;
    use crate::config::Config;

    async fn served(token: Option<&str>) -> (tempfile::TempDir, Served) {
        let folder = tempfile::tempdir().unwrap();
        let app = App::open(Config::for_data_dir(folder.path())).unwrap();
        let config = MetricsConfig {
            listen: "127.0.0.1:0".parse().unwrap(),
            token: token.map(|token| Zeroizing::new(token.to_owned())),
        };
        let served = open(&config, &app.services).await.unwrap();
        (folder, served)
    }

    async fn ask(served: &Served, request: &str) -> String {
        let mut stream = TcpStream::connect(served.address).await.unwrap();
        stream
            .write_all(format!("{request}\r\n\r\n").as_bytes())
            .await
            .unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).await.unwrap();
        answer
    }

    #[tokio::test]
    async fn one_path_is_answered_and_nothing_else() {
        let (_folder, served) = served(None).await;
        let answer = ask(&served, "GET /metrics HTTP/1.1\r\nHost: x").await;
        assert!(answer.starts_with("HTTP/1.1 200 OK\r\n"), "{answer}");
        assert!(
            answer.contains("content-type: text/plain; version=0.0.4"),
            "{answer}"
        );
        assert!(answer.contains("\nlatchkey_build_info{version="), "{answer}");
        for (request, status) in [
            ("GET / HTTP/1.1\r\nHost: x", "404"),
            ("GET /api/v1/users HTTP/1.1\r\nHost: x", "404"),
            ("POST /metrics HTTP/1.1\r\nHost: x\r\nContent-Length: 0", "405"),
            ("HEAD /metrics HTTP/1.1\r\nHost: x", "405"),
            ("nonsense", "400"),
        ] {
            let answer = ask(&served, request).await;
            assert_eq!(answer.split(' ').nth(1), Some(status), "{request}: {answer}");
        }
    }

    #[tokio::test]
    async fn with_a_token_nothing_is_said_without_it() {
        let token = "correct-horse-battery";
        let (_folder, served) = served(Some(token)).await;
        for header in [
            "",
            "\r\nAuthorization: Bearer",
            "\r\nAuthorization: Bearer correct-horse-batter",
            "\r\nAuthorization: Bearer correct-horse-battery2",
            "\r\nAuthorization: Basic correct-horse-battery",
        ] {
            for path in ["/metrics", "/"] {
                let answer = ask(&served, &format!("GET {path} HTTP/1.1\r\nHost: x{header}")).await;
                assert!(answer.starts_with("HTTP/1.1 401 "), "{header}: {answer}");
                assert!(answer.contains("www-authenticate: Bearer"), "{answer}");
                assert!(!answer.contains("latchkey_"), "{answer}");
            }
        }
        let shown = format!("GET /metrics HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {token}");
        let answer = ask(&served, &shown).await;
        assert!(answer.starts_with("HTTP/1.1 200 "), "{answer}");
    }

    #[tokio::test]
    async fn whoever_holds_all_places_is_outlived_and_the_address_closes() {
        let (_folder, served) = served(None).await;
        let mut idle = Vec::new();
        for _ in 0..MOST_CONNECTIONS {
            idle.push(TcpStream::connect(served.address).await.unwrap());
        }
        // Connections are accepted in order: the next one finds no place, and is closed.
        let mut next = TcpStream::connect(served.address).await.unwrap();
        let _ = next.write_all(b"GET /metrics HTTP/1.1\r\nHost: x\r\n\r\n").await;
        let mut answer = Vec::new();
        let read = next.read_to_end(&mut answer).await;
        assert!(
            read.is_err() || answer.is_empty(),
            "{}",
            String::from_utf8_lossy(&answer)
        );
        drop(idle);
        let mut tries = 0;
        while !ask_or_nothing(&served).await.starts_with("HTTP/1.1 200 ") {
            tries += 1;
            assert!(tries < 500, "places come back");
            sleep(Duration::from_millis(10)).await;
        }
        let address = served.address;
        drop(served);
        let mut tries = 0;
        while TcpStream::connect(address).await.is_ok() {
            tries += 1;
            assert!(tries < 500, "it closes");
            sleep(Duration::from_millis(10)).await;
        }
    }

    async fn ask_or_nothing(served: &Served) -> String {
        let mut stream = TcpStream::connect(served.address).await.unwrap();
        let _ = stream
            .write_all(b"GET /metrics HTTP/1.1\r\nHost: x\r\n\r\n")
            .await;
        let mut answer = String::new();
        let _ = stream.read_to_string(&mut answer).await;
        answer
    }
}
