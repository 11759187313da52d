//! The accept loop: hyper beneath the poem endpoint, with bounds that keep one client from using up what all
//! clients need: connections in total and per address, the size of a request head, and the time for a head,
//! for a body and for reading the response. A client that connects while all places are taken gets 503 at
//! once, and health checks are still answered.

use std::collections::HashMap;
use std::convert::Infallible;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::pin::Pin;
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll};
use std::time::Duration;

use http_body_util::BodyExt as _;
use http_body_util::combinators::BoxBody;
use hyper::body::{Body, Bytes, Frame, Incoming, SizeHint};
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::server::graceful::GracefulShutdown;
use ipnet::IpNet;
use poem::http::uri::Scheme;
use poem::web::{LocalAddr, RemoteAddr};
use poem::{Addr, Endpoint, IntoResponse};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{Semaphore, TryAcquireError};
use tokio::time::{Instant, Sleep, sleep, sleep_until, timeout};
use tokio_io_timeout::TimeoutStream;

use super::client_address::{client_address, is_trusted};
use crate::config::HttpConfig;
use crate::http::NoPlace;
use crate::limiter::address_key;

/// Connections beyond the limit, each for one request that gets 503 or asks for health. Beyond these,
/// connections are closed at once.
pub(super) const STANDING_PLACES: usize = 64;
/// How long one of these connections may take in total.
const STANDING_TIME: Duration = Duration::from_secs(2);
/// How long a head may take, and a connection may be idle, once less than a quarter of the places is free.
const HEADER_TIMEOUT_WHEN_SHORT: Duration = Duration::from_secs(2);

/// Serves until `shutdown` completes, then lets requests in progress finish, for at most the configured grace
/// period. Returns whether all of them did.
pub(super) async fn serve<E>(
    listener: TcpListener,
    endpoint: Arc<E>,
    bounds: HttpConfig,
    trusted: Vec<IpNet>,
    shutdown: impl Future<Output = ()>,
) -> bool
where
    E: Endpoint + 'static,
    E::Output: IntoResponse,
{
    let places = Arc::new(Semaphore::new(bounds.max_connections));
    let per_address = PerAddress::new(bounds.max_connections_per_address);
    let graceful = GracefulShutdown::new();
    let door = Arc::new(Door {
        endpoint,
        bounds,
        trusted,
    });
    let mut shutdown = std::pin::pin!(shutdown);
    let standing = Arc::new(Semaphore::new(STANDING_PLACES));
    loop {
        let (stream, peer) = tokio::select! {
            () = &mut shutdown => break,
            accepted = listener.accept() => match accepted {
                Ok(accepted) => accepted,
                Err(error) => {
                    after_accept_error(&error).await;
                    continue;
                }
            },
        };
        let address = peer.ip().to_canonical();
        let seat = if is_trusted(address, &door.trusted) {
            Some(None)
        } else {
            per_address.take(address).map(Some)
        };
        let Some(seat) = seat else {
            tracing::debug!(%address, "connection refused: too many from this address");
            continue;
        };
        let sitting = places.clone().try_acquire_owned().map(|place| {
            // When places run short, slow heads and idle connections give theirs back sooner.
            let is_short = places.available_permits() < door.bounds.max_connections / 4;
            (place, if is_short { Room::Short } else { Room::Ample })
        });
        let taken = sitting.or_else(|_| {
            let place = standing.clone().try_acquire_owned()?;
            Ok::<_, TryAcquireError>((place, Room::Standing))
        });
        let Ok((place, room)) = taken else {
            tracing::debug!(%address, "connection refused: every place is taken");
            continue;
        };
        let (door, watcher) = (door.clone(), graceful.watcher());
        tokio::spawn(async move {
            let served = door.connection(stream, peer, watcher, room);
            let ended = match room {
                Room::Standing => timeout(STANDING_TIME, served).await.unwrap_or(Ok(())),
                Room::Ample | Room::Short => served.await,
            };
            if let Err(error) = ended {
                // A client that went away or was too slow is not worth more than a debug line.
                tracing::debug!(%error, "connection ended");
            }
            drop((place, seat));
        });
    }
    drop(listener);
    timeout(door.bounds.shutdown_grace, graceful.shutdown())
        .await
        .is_ok()
}

/// After an error of `accept`: without descriptors or memory, waits for some to be freed instead of ending or
/// spinning.
async fn after_accept_error(error: &io::Error) {
    use io::ErrorKind::{ConnectionAborted, ConnectionRefused, ConnectionReset};
    if matches!(
        error.kind(),
        ConnectionAborted | ConnectionRefused | ConnectionReset
    ) {
        return;
    }
    tracing::warn!(%error, "could not accept a connection; retrying in a second");
    sleep(Duration::from_secs(1)).await;
}

/// How many places were free when a connection was accepted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Room {
    Ample,
    Short,
    /// Every place was taken: this connection serves one request only.
    Standing,
}

struct Door<E> {
    endpoint: Arc<E>,
    bounds: HttpConfig,
    trusted: Vec<IpNet>,
}

impl<E> Door<E>
where
    E: Endpoint + 'static,
    E::Output: IntoResponse,
{
    async fn connection(
        self: Arc<Self>,
        stream: TcpStream,
        peer: SocketAddr,
        watcher: hyper_util::server::graceful::Watcher,
        room: Room,
    ) -> hyper::Result<()> {
        // Responses are small: delaying them to fill packets would only make them late.
        let _ = stream.set_nodelay(true);
        let local = LocalAddr(
            stream
                .local_addr()
                .map_or_else(|_| Addr::default(), Addr::SocketAddr),
        );
        let mut stream = TimeoutStream::new(stream);
        stream.set_write_timeout(Some(self.bounds.write_timeout));
        let header_timeout = match room {
            Room::Ample => self.bounds.header_timeout,
            Room::Short | Room::Standing => self.bounds.header_timeout.min(HEADER_TIMEOUT_WHEN_SHORT),
        };
        let mut http = http1::Builder::new();
        http.timer(TokioTimer::new())
            .keep_alive(room != Room::Standing)
            .header_read_timeout(header_timeout)
            .max_buf_size(self.bounds.head_limit_bytes)
            .max_headers(self.bounds.max_headers);
        let service = service_fn(move |request| {
            let (door, local) = (self.clone(), local.clone());
            async move { Ok::<_, Infallible>(door.request(request, local, peer, room).await) }
        });
        watcher
            .watch(http.serve_connection(TokioIo::new(Box::pin(stream)), service))
            .await
    }

    async fn request(
        &self,
        request: hyper::Request<Incoming>,
        local: LocalAddr,
        peer: SocketAddr,
        room: Room,
    ) -> hyper::Response<BoxBody<Bytes, io::Error>> {
        let client = client_address(peer.ip(), request.headers(), &self.trusted);
        let remote = RemoteAddr(Addr::SocketAddr(SocketAddr::new(client, peer.port())));
        let has_body = !request.body().is_end_stream();
        let mut request: poem::Request = (request, local, remote, Scheme::HTTP).into();
        if has_body {
            let body: BoxBody<Bytes, io::Error> = request.take_body().into();
            request.set_body(poem::Body::from(
                TimedBody::new(body, self.bounds.body_timeout).boxed(),
            ));
        }
        if room == Room::Standing {
            request.extensions_mut().insert(NoPlace);
        }
        self.endpoint.get_response(request).await.into()
    }
}

/// A body that fails with [`io::ErrorKind::TimedOut`] if it has not arrived completely in time.
struct TimedBody {
    body: BoxBody<Bytes, io::Error>,
    deadline: Pin<Box<Sleep>>,
}

impl TimedBody {
    fn new(body: BoxBody<Bytes, io::Error>, after: Duration) -> Self {
        Self {
            body,
            deadline: Box::pin(sleep_until(Instant::now() + after)),
        }
    }
}

impl Body for TimedBody {
    type Data = Bytes;
    type Error = io::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Self::Data>, Self::Error>>> {
        if let Poll::Ready(frame) = Pin::new(&mut self.body).poll_frame(cx) {
            return Poll::Ready(frame);
        }
        self.deadline
            .as_mut()
            .poll(cx)
            .map(|()| Some(Err(io::ErrorKind::TimedOut.into())))
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

/// Counts open connections per address, with the same keys as the limiter: an IPv6 /64 counts as one.
#[derive(Clone)]
struct PerAddress {
    open: Arc<Mutex<HashMap<Vec<u8>, usize>>>,
    most: usize,
}

/// One open connection; dropping it frees its place.
struct Seat {
    open: Arc<Mutex<HashMap<Vec<u8>, usize>>>,
    key: Vec<u8>,
}

impl PerAddress {
    fn new(most: usize) -> Self {
        Self {
            open: Arc::default(),
            most,
        }
    }

    fn take(&self, address: IpAddr) -> Option<Seat> {
        let mut open = self.open.lock().unwrap_or_else(PoisonError::into_inner);
        let key = address_key(Some(address));
        let count = open.entry(key.clone()).or_default();
        if *count >= self.most {
            return None;
        }
        *count += 1;
        Some(Seat {
            open: self.open.clone(),
            key,
        })
    }
}

impl Drop for Seat {
    fn drop(&mut self) {
        let mut open = self.open.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(count) = open.get_mut(&self.key) {
            *count -= 1;
            if *count == 0 {
                open.remove(&self.key);
            }
        }
    }
}

#[cfg(test)]
mod tests;
