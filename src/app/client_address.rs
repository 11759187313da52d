//! Determines the client address of a request. Behind proxies the peer of the connection is the proxy, and
//! `X-Forwarded-For` names the client, as far as a trusted proxy wrote it.

use std::net::{IpAddr, SocketAddr};

use hyper::HeaderMap;
use ipnet::IpNet;

/// Returns the rightmost address in `X-Forwarded-For` that is not a trusted proxy. Anything to the left of it
/// was written by the client, who can write anything.
pub(super) fn client_address(peer: IpAddr, headers: &HeaderMap, trusted: &[IpNet]) -> IpAddr {
    let mut client = peer.to_canonical();
    if !is_trusted(client, trusted) {
        return client;
    }
    // Several header lines form one list (RFC 9110 §5.3). `rev` starts at the hop nearest to us.
    for line in headers.get_all("x-forwarded-for").iter().rev() {
        let Ok(line) = line.to_str() else {
            return client;
        };
        for hop in line.rsplit(',') {
            // An unreadable entry hides the client; the hop that wrote it is the best known address.
            let Some(hop) = parse_hop(hop.trim()) else {
                return client;
            };
            client = hop;
            if !is_trusted(client, trusted) {
                return client;
            }
        }
    }
    client
}

/// Returns whether the address is a trusted proxy.
pub(super) fn is_trusted(address: IpAddr, trusted: &[IpNet]) -> bool {
    trusted.iter().any(|network| network.contains(&address))
}

/// Parses `192.0.2.1`, `192.0.2.1:443`, `2001:db8::1`, `[2001:db8::1]` or `[2001:db8::1]:443`.
fn parse_hop(hop: &str) -> Option<IpAddr> {
    let bracketed = hop.strip_prefix('[').and_then(|rest| rest.strip_suffix(']'));
    bracketed
        .unwrap_or(hop)
        .parse()
        .ok()
        .or_else(|| hop.parse().ok().map(|address: SocketAddr| address.ip()))
        .map(|address: IpAddr| address.to_canonical())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn client(peer: &str, forwarded: &[&str], trusted: &[&str]) -> String {
        let mut headers = HeaderMap::new();
        for line in forwarded {
            headers.append("x-forwarded-for", line.parse().unwrap());
        }
        let trusted: Vec<IpNet> = trusted.iter().map(|network| network.parse().unwrap()).collect();
        client_address(peer.parse().unwrap(), &headers, &trusted).to_string()
    }

    #[test]
    fn without_a_trusted_peer_the_header_is_a_claim() {
        assert_eq!(client("198.51.100.7", &["10.0.0.1"], &[]), "198.51.100.7");
        assert_eq!(
            client("198.51.100.7", &["10.0.0.1"], &["10.0.0.0/8"]),
            "198.51.100.7"
        );
    }

    #[test]
    fn the_rightmost_untrusted_hop_is_the_client() {
        let trusted = ["10.0.0.0/8", "fd00::/8"];
        assert_eq!(client("10.0.0.1", &["192.0.2.9"], &trusted), "192.0.2.9");
        assert_eq!(client("10.0.0.1", &["1.2.3.4, 192.0.2.9"], &trusted), "192.0.2.9");
        assert_eq!(
            client("10.0.0.1", &["1.2.3.4, 192.0.2.9, 10.0.0.2"], &trusted),
            "192.0.2.9"
        );
        assert_eq!(
            client("10.0.0.1", &["1.2.3.4", "192.0.2.9", "10.0.0.2"], &trusted),
            "192.0.2.9"
        );
        assert_eq!(client("fd00::1", &["2001:db8::5"], &trusted), "2001:db8::5");
    }

    #[test]
    fn what_cannot_be_read_leaves_the_hop_before_it() {
        let trusted = ["10.0.0.0/8"];
        assert_eq!(client("10.0.0.1", &[], &trusted), "10.0.0.1");
        assert_eq!(client("10.0.0.1", &[""], &trusted), "10.0.0.1");
        assert_eq!(client("10.0.0.1", &["192.0.2.9, unknown"], &trusted), "10.0.0.1");
        assert_eq!(
            client("10.0.0.1", &["192.0.2.9, unknown, 10.0.0.7"], &trusted),
            "10.0.0.7"
        );
    }

    #[test]
    fn ports_brackets_and_mapped_addresses_are_understood() {
        let trusted = ["10.0.0.0/8"];
        assert_eq!(
            client("::ffff:10.0.0.1", &["192.0.2.9:4711"], &trusted),
            "192.0.2.9"
        );
        assert_eq!(
            client("10.0.0.1", &["[2001:db8::1]:443"], &trusted),
            "2001:db8::1"
        );
        assert_eq!(client("10.0.0.1", &["[2001:db8::1]"], &trusted), "2001:db8::1");
        assert_eq!(client("10.0.0.1", &["::ffff:192.0.2.1"], &trusted), "192.0.2.1");
    }
}
