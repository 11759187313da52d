use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use poem::{EndpointExt as _, Request, endpoint};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::sync::oneshot;
use tokio::task::JoinHandle;

use super::*;
use crate::config::Config;

struct Served {
    address: SocketAddr,
    stop: Option<oneshot::Sender<()>>,
    ended: JoinHandle<bool>,
    finished: Arc<AtomicUsize>,
}

/// Serves an endpoint that answers with the client's address and the length of the body, and takes half a
/// second for `/slow`; a connection beyond the limit gets an answer that says so.
async fn served(change: impl FnOnce(&mut HttpConfig)) -> Served {
    let mut bounds = Config::for_data_dir("unused".as_ref()).http;
    bounds.header_timeout = Duration::from_millis(300);
    bounds.body_timeout = Duration::from_millis(300);
    bounds.shutdown_grace = Duration::from_secs(5);
    change(&mut bounds);
    let finished = Arc::new(AtomicUsize::new(0));
    let count = finished.clone();
    let endpoint = endpoint::make(move |mut request: Request| {
        let count = count.clone();
        async move {
            if request.uri().path() == "/slow" {
                sleep(Duration::from_millis(500)).await;
            }
            if request.extensions().get::<NoPlace>().is_some() {
                return Ok("no place".to_owned());
            }
            let client = request.remote_addr().as_socket_addr().map(SocketAddr::ip);
            let body = request.take_body().into_bytes().await?;
            count.fetch_add(1, Ordering::SeqCst);
            Ok::<_, poem::Error>(format!("{} {}", client.expect("a socket address"), body.len()))
        }
    });
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let (stop, stopped) = oneshot::channel::<()>();
    let trusted = vec!["127.0.0.9/32".parse().unwrap()];
    let ended = tokio::spawn(serve(
        listener,
        Arc::new(endpoint.map_to_response()),
        bounds,
        trusted,
        async {
            let _ = stopped.await;
        },
    ));
    Served {
        address,
        stop: Some(stop),
        ended,
        finished,
    }
}

impl Served {
    async fn connect(&self) -> TcpStream {
        TcpStream::connect(self.address).await.unwrap()
    }

    async fn exchange(&self, request: &str) -> String {
        let mut stream = self.connect().await;
        stream.write_all(request.as_bytes()).await.unwrap();
        read_all(&mut stream).await
    }

    async fn stop(mut self) -> bool {
        let _ = self.stop.take().expect("stopped once").send(());
        self.ended.await.unwrap()
    }
}

async fn read_all(stream: &mut TcpStream) -> String {
    let mut answer = Vec::new();
    let _ = timeout(Duration::from_secs(5), stream.read_to_end(&mut answer))
        .await
        .expect("it ends");
    String::from_utf8(answer).unwrap()
}

const CLOSE: &str = "Host: x\r\nConnection: close\r\n";

#[tokio::test]
async fn answers_and_believes_only_trusted_proxies() {
    let served = served(|_| ()).await;
    let forwarded = "X-Forwarded-For: 192.0.2.1\r\n";
    let answer = served
        .exchange(&format!(
            "POST / HTTP/1.1\r\n{CLOSE}{forwarded}Content-Length: 5\r\n\r\nhello"
        ))
        .await;
    assert!(
        answer.starts_with("HTTP/1.1 200") && answer.ends_with("127.0.0.1 5"),
        "{answer}"
    );

    let socket = tokio::net::TcpSocket::new_v4().unwrap();
    socket.bind("127.0.0.9:0".parse().unwrap()).unwrap();
    let mut proxied = socket.connect(served.address).await.unwrap();
    proxied
        .write_all(format!("GET / HTTP/1.1\r\n{CLOSE}{forwarded}\r\n").as_bytes())
        .await
        .unwrap();
    let answer = read_all(&mut proxied).await;
    assert!(answer.ends_with("192.0.2.1 0"), "{answer}");
    assert!(served.stop().await);
}

#[tokio::test]
async fn a_slow_head_and_an_idle_connection_are_closed() {
    let served = served(|_| ()).await;
    let answer = served.exchange("GET / HTTP/1.1\r\nHost: x\r\n").await;
    assert!(!answer.contains("200"), "{answer}");
    let answer = served.exchange("").await;
    assert_eq!(answer, "");
    // Kept open after an answer, then idle for too long.
    let answer = served.exchange("GET / HTTP/1.1\r\nHost: x\r\n\r\n").await;
    assert!(answer.contains("200"), "{answer}");
}

#[tokio::test]
async fn a_slow_body_fails_the_request() {
    let served = served(|_| ()).await;
    let answer = served
        .exchange(&format!(
            "POST / HTTP/1.1\r\n{CLOSE}Content-Length: 10\r\n\r\nhel"
        ))
        .await;
    assert!(answer.starts_with("HTTP/1.1 400"), "{answer}");
    assert_eq!(served.finished.load(Ordering::SeqCst), 0);
}

#[tokio::test]
async fn one_address_cannot_take_every_connection() {
    let served = served(|bounds| bounds.max_connections_per_address = 2).await;
    let first = served.connect().await;
    let _second = served.connect().await;
    sleep(Duration::from_millis(50)).await;
    let refused = served.exchange(&format!("GET / HTTP/1.1\r\n{CLOSE}\r\n")).await;
    assert_eq!(refused, "");
    drop(first);
    sleep(Duration::from_millis(50)).await;
    let answer = served.exchange(&format!("GET / HTTP/1.1\r\n{CLOSE}\r\n")).await;
    assert!(answer.contains("200"), "{answer}");
}

#[tokio::test]
async fn beyond_the_connection_limit_one_request_is_told_and_the_next_served_once_there_is_a_place() {
    let served = served(|bounds| bounds.max_connections = 1).await;
    let _idle = served.connect().await;
    sleep(Duration::from_millis(50)).await;
    // Even without `Connection: close` a connection beyond the limit is not kept alive.
    let answer = served.exchange("GET / HTTP/1.1\r\nHost: x\r\n\r\n").await;
    assert!(answer.ends_with("no place"), "{answer}");
    let answer = served.exchange("GET / HTTP/1.1\r\nHost: x\r\n").await;
    assert!(!answer.contains("200"), "a slow head is cut: {answer}");
    // The idle one has timed out.
    sleep(Duration::from_millis(500)).await;
    let answer = served.exchange(&format!("GET / HTTP/1.1\r\n{CLOSE}\r\n")).await;
    assert!(answer.contains("200") && !answer.contains("no place"), "{answer}");
}

#[tokio::test]
async fn beyond_the_standing_places_a_connection_is_closed() {
    let served = served(|bounds| {
        bounds.max_connections = 1;
        bounds.max_connections_per_address = 1000;
        bounds.header_timeout = Duration::from_secs(2);
    })
    .await;
    let mut standing = Vec::new();
    for _ in 0..=STANDING_PLACES {
        standing.push(served.connect().await);
    }
    sleep(Duration::from_millis(50)).await;
    let answer = served.exchange(&format!("GET / HTTP/1.1\r\n{CLOSE}\r\n")).await;
    assert_eq!(answer, "");
}

#[tokio::test]
async fn stopping_lets_requests_under_way_end() {
    let served = served(|bounds| bounds.header_timeout = Duration::from_secs(30)).await;
    let idle = served.connect().await;
    let mut slow = served.connect().await;
    slow.write_all(b"GET /slow HTTP/1.1\r\nHost: x\r\n\r\n")
        .await
        .unwrap();
    sleep(Duration::from_millis(100)).await;
    let (address, finished) = (served.address, served.finished.clone());
    assert!(served.stop().await, "all requests ended");
    assert_eq!(finished.load(Ordering::SeqCst), 1);
    assert!(read_all(&mut slow).await.contains("200"));
    assert!(
        TcpStream::connect(address).await.is_err(),
        "nobody listens any more"
    );
    drop(idle);
}

#[tokio::test]
async fn the_grace_period_is_a_bound() {
    let served = served(|bounds| bounds.shutdown_grace = Duration::from_millis(50)).await;
    let mut slow = served.connect().await;
    slow.write_all(b"GET /slow HTTP/1.1\r\nHost: x\r\n\r\n")
        .await
        .unwrap();
    sleep(Duration::from_millis(100)).await;
    assert!(!served.stop().await, "a request was cut off");
}

#[test]
fn an_ipv6_network_is_one_address_and_gives_its_places_back() {
    let places = PerAddress::new(1);
    let take = |address: &str| places.take(address.parse().unwrap());
    let seat = take("2001:db8:1:2::1");
    assert!(seat.is_some() && take("2001:db8:1:2:ffff::9").is_none());
    assert!(take("2001:db8:1:3::1").is_some() && take("192.0.2.1").is_some());
    drop(seat);
    assert!(take("2001:db8:1:2:ffff::9").is_some());
}
