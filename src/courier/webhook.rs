//! Calls webhooks in the Standard Webhooks form: signed, with an id, and only to listed hosts at checked
//! addresses.

use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use jiff::Timestamp;
use reqwest::dns::{Addrs, Name, Resolve, Resolving};
use reqwest::{Client, StatusCode, Url, redirect};
use standardwebhooks::Webhook;

use super::{Reach, Undelivered, told};

/// Timeout of a call, in seconds: Standard Webhooks advises 15 to 30.
const TIMEOUT_SECS: u64 = 15;
/// Timeout of the connection within a call, in seconds: long enough for two lost packets, and shorter for a
/// host that is not there.
const CONNECT_TIMEOUT_SECS: u64 = 5;

/// One call of a webhook.
#[derive(Clone, Copy)]
pub struct WebhookCall<'a> {
    /// `webhook-id` header: the same for every attempt.
    pub name: &'a str,
    /// URL of the webhook.
    pub url: &'a str,
    /// Key that both sides sign with.
    pub secret: &'a [u8],
    /// Body, as JSON.
    pub body: &'a str,
    /// `webhook-timestamp` header: the time of this attempt.
    pub at: Timestamp,
}

/// Calls webhooks.
#[derive(Clone, Debug)]
pub(super) struct Webhooks {
    client: Client,
    reach: Arc<Reach>,
}

impl Webhooks {
    pub(super) fn new(reach: Reach) -> Result<Self, String> {
        let reach = Arc::new(reach);
        let client = Client::builder()
            .user_agent(concat!("latchkey/", env!("CARGO_PKG_VERSION")))
            .timeout(Duration::from_secs(TIMEOUT_SECS))
            .connect_timeout(Duration::from_secs(CONNECT_TIMEOUT_SECS))
            // A redirect could lead to an address that is not listed; a proxy would resolve names itself.
            .redirect(redirect::Policy::none())
            .no_proxy()
            .dns_resolver(CheckedResolver(Arc::clone(&reach)))
            .build()
            .map_err(|error| told(&error))?;
        Ok(Self { client, reach })
    }

    pub(super) fn reach(&self) -> &Reach {
        &self.reach
    }

    pub(super) async fn call(&self, call: &WebhookCall<'_>) -> Result<(), Undelivered> {
        let url =
            check_url(&self.reach, call.url).map_err(|problem| Undelivered::Never(problem.to_owned()))?;
        let timestamp = call.at.as_second();
        let signature = Webhook::from_bytes(call.secret.to_vec())
            .and_then(|webhook| webhook.sign(call.name, timestamp, call.body.as_bytes()))
            .map_err(|error| Undelivered::Never(told(&error)))?;
        let answer = self
            .client
            .post(url)
            .header("content-type", "application/json")
            .header(standardwebhooks::HEADER_WEBHOOK_ID, call.name)
            .header(standardwebhooks::HEADER_WEBHOOK_TIMESTAMP, timestamp)
            .header(standardwebhooks::HEADER_WEBHOOK_SIGNATURE, signature)
            .body(call.body.to_owned())
            .send()
            .await
            .map_err(|error| {
                let is_late = error.is_timeout();
                // The URL may contain a secret of the receiver.
                let why = told(&error.without_url());
                if is_late {
                    Undelivered::Unanswered(why)
                } else {
                    Undelivered::Later(why)
                }
            })?;
        match answer.status() {
            status if status.is_success() => Ok(()),
            StatusCode::GONE => Err(Undelivered::Never("the receiver answered 410 Gone".into())),
            status @ (StatusCode::BAD_REQUEST
            | StatusCode::PAYLOAD_TOO_LARGE
            | StatusCode::UNPROCESSABLE_ENTITY) => {
                Err(Undelivered::Refused(format!("the receiver answered {status}")))
            }
            status => Err(Undelivered::Later(format!("the receiver answered {status}"))),
        }
    }
}

/// Parses the URL of a webhook and checks whether it may be called, as far as that is known without resolving
/// its name.
///
/// # Errors
/// What is wrong with it, as a sentence without a subject.
pub fn check_url(reach: &Reach, url: &str) -> Result<Url, &'static str> {
    let url = Url::parse(url).map_err(|_| "is not a URL such as https://hooks.example.org/latchkey")?;
    let secure = match url.scheme() {
        "https" => true,
        "http" => false,
        _ => return Err("must begin with https://"),
    };
    if !url.username().is_empty() || url.password().is_some() {
        return Err("must not hold a user name or password");
    }
    let host = url.host_str().unwrap_or_default();
    if !reach.lists_host(host) {
        return Err("names a host that the operator has not listed");
    }
    // The resolver is not asked for a literal address.
    let address = host
        .trim_start_matches('[')
        .trim_end_matches(']')
        .parse::<IpAddr>()
        .ok();
    if address.is_some_and(|address| !reach.allows(address)) {
        return Err("names an address that is not public");
    }
    if !secure && !address.is_some_and(|address| reach.lists_address(address)) {
        return Err(
            "must begin with https://, unless it names an address in a network that the operator listed",
        );
    }
    Ok(url)
}

/// Returns the host of a URL.
#[must_use]
pub fn host_of(url: &str) -> Option<String> {
    Url::parse(url).ok()?.host_str().map(str::to_owned)
}

/// Resolves a name once per connection and returns only addresses that may be connected to, so that a name
/// can't change its address between check and use (DNS rebinding).
struct CheckedResolver(Arc<Reach>);

impl Resolve for CheckedResolver {
    fn resolve(&self, name: Name) -> Resolving {
        let reach = Arc::clone(&self.0);
        Box::pin(async move {
            let found: Vec<SocketAddr> = tokio::net::lookup_host((name.as_str(), 0)).await?.collect();
            if let Some(refused) = found.iter().find(|address| !reach.allows(address.ip())) {
                let ip = refused.ip();
                return Err(format!("the name leads to {ip}, which is not public and not listed").into());
            }
            Ok(Box::new(found.into_iter()) as Addrs)
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_is_checked_as_it_is_understood_not_as_it_is_written() {
        let hosts = ["127.0.0.1", "10.0.0.1", "[::1]", "hooks.example.org", "10.0.0.2"].map(String::from);
        let reach = Reach::new(&hosts, vec!["10.0.0.2/32".parse().unwrap()]);
        let refused = |url: &str| check_url(&reach, url).err();
        assert_eq!(refused("https://hooks.example.org/a?b=c"), None);
        assert_eq!(refused("http://10.0.0.2:8080/a"), None);
        for (url, part) in [
            ("https://127.0.0.1/", "not public"),
            ("https://2130706433/", "not public"),
            ("https://0x7f.1/", "not public"),
            ("https://127.1/", "not public"),
            ("https://[::1]/", "not public"),
            ("https://10.0.0.1/", "not public"),
            ("http://hooks.example.org/", "https://"),
            ("https://hooks.example.org@evil.test/", "user name"),
            ("https://evil.test/#hooks.example.org", "not listed"),
            ("https://localhost/", "not listed"),
            ("file:///etc/passwd", "https://"),
            ("gopher://hooks.example.org/", "https://"),
            ("hooks.example.org", "not a URL"),
        ] {
            let problem = refused(url).unwrap_or_else(|| panic!("{url} is refused"));
            assert!(problem.contains(part), "{url}: {problem}");
        }
    }
}
