//! Decides where webhooks may go. An organisation's admin chooses the URL, and without this could make the
//! appliance call anything that only the appliance can reach (server-side request forgery; ASVS 13.2.4).

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use ipnet::IpNet;

/// The operator's lists: hosts that may be called at all, and networks that may be called although they are
/// not public.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Reach {
    /// Host names in lower case; `*.example.org` matches every name below it; an address is matched as it is
    /// written.
    hosts: Vec<String>,
    /// Private, loopback, link-local and other special networks that are allowed nonetheless.
    networks: Vec<IpNet>,
}

impl Reach {
    /// Creates the lists.
    #[must_use]
    pub fn new(hosts: &[String], networks: Vec<IpNet>) -> Self {
        Self {
            hosts: hosts.iter().map(|host| normal(host)).collect(),
            networks,
        }
    }

    /// Returns the listed hosts.
    #[must_use]
    pub fn hosts(&self) -> &[String] {
        &self.hosts
    }

    /// Returns the listed networks as text.
    #[must_use]
    pub fn networks(&self) -> Vec<String> {
        self.networks.iter().map(ToString::to_string).collect()
    }

    /// Returns whether no host is listed.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.hosts.is_empty()
    }

    /// Returns whether a host may be called, judged by its name.
    #[must_use]
    pub fn lists_host(&self, host: &str) -> bool {
        let host = normal(host);
        self.hosts.iter().any(|listed| match listed.strip_prefix("*.") {
            Some(domain) => host
                .strip_suffix(domain)
                .is_some_and(|below| below.len() > 1 && below.ends_with('.')),
            None => *listed == host,
        })
    }

    /// Returns whether an address may be connected to: it is public, or in a listed network.
    #[must_use]
    pub fn allows(&self, address: IpAddr) -> bool {
        let address = address.to_canonical();
        self.lists_address(address) || is_public(address)
    }

    /// Returns whether an address is in a listed network.
    #[must_use]
    pub fn lists_address(&self, address: IpAddr) -> bool {
        let address = address.to_canonical();
        self.networks.iter().any(|network| network.contains(&address))
    }
}

fn normal(host: &str) -> String {
    host.trim_end_matches('.')
        .trim_start_matches('[')
        .trim_end_matches(']')
        .to_ascii_lowercase()
}

/// Returns whether an address is neither private nor special according to the IANA registries (RFC 6890 and
/// its successors).
fn is_public(address: IpAddr) -> bool {
    match address {
        IpAddr::V4(address) => !in_any(address.into(), SPECIAL_V4),
        IpAddr::V6(address) => match embedded(address) {
            Some(inner) => is_public(inner.into()),
            None => !in_any(address.into(), SPECIAL_V6),
        },
    }
}

/// Returns the IPv4 address that an IPv6 address leads to: NAT64 (RFC 6052) and 6to4 (RFC 3056).
fn embedded(address: Ipv6Addr) -> Option<Ipv4Addr> {
    let v4 = |high: u16, low: u16| Ipv4Addr::from_bits(u32::from(high) << 16 | u32::from(low));
    match address.segments() {
        [0x64, 0xff9b, 0, 0, 0, 0, high, low] | [0x2002, high, low, ..] => Some(v4(high, low)),
        _ => None,
    }
}

fn in_any(address: IpAddr, networks: &[&str]) -> bool {
    networks.iter().any(|network| {
        let network: IpNet = network.parse().expect("a constant network");
        network.contains(&address)
    })
}

const SPECIAL_V4: &[&str] = &[
    "0.0.0.0/8",
    "10.0.0.0/8",
    "100.64.0.0/10",
    "127.0.0.0/8",
    "169.254.0.0/16",
    "172.16.0.0/12",
    "192.0.0.0/24",
    "192.0.2.0/24",
    "192.88.99.0/24",
    "192.168.0.0/16",
    "198.18.0.0/15",
    "198.51.100.0/24",
    "203.0.113.0/24",
    "224.0.0.0/4",
    "240.0.0.0/4",
];
const SPECIAL_V6: &[&str] = &[
    "::/96",
    "64:ff9b:1::/48",
    "100::/64",
    "2001::/23",
    "2001:db8::/32",
    "3fff::/20",
    "5f00::/16",
    "fc00::/7",
    "fe80::/10",
    "fec0::/10",
    "ff00::/8",
];

#[cfg(test)]
mod tests {
    use super::*;

    fn reach(hosts: &[&str], networks: &[&str]) -> Reach {
        let hosts: Vec<_> = hosts.iter().map(ToString::to_string).collect();
        Reach::new(&hosts, networks.iter().map(|n| n.parse().unwrap()).collect())
    }

    #[test]
    fn only_public_addresses_are_reached() {
        let reach = Reach::default();
        for public in [
            "93.184.216.34",
            "2606:2800:220:1::1",
            "64:ff9b::5db8:d822",
            "8.8.8.8",
        ] {
            assert!(reach.allows(public.parse().unwrap()), "{public}");
        }
        for special in [
            "127.0.0.1",
            "127.255.255.254",
            "0.0.0.0",
            "10.1.2.3",
            "172.31.255.255",
            "192.168.0.1",
            "169.254.169.254",
            "100.64.0.1",
            "224.0.0.1",
            "255.255.255.255",
            "::",
            "::1",
            "::ffff:127.0.0.1",
            "::ffff:10.0.0.1",
            "::7f00:1",
            "64:ff9b::7f00:1",
            "2002:7f00:1::",
            "2002:c0a8:1::1",
            "fe80::1",
            "fd12:3456::1",
            "ff02::1",
        ] {
            assert!(!reach.allows(special.parse().unwrap()), "{special}");
        }
    }

    #[test]
    fn a_listed_network_is_reached_and_its_neighbours_are_not() {
        let reach = reach(&[], &["10.1.0.0/16", "fd12::/32"]);
        for (address, allowed) in [
            ("10.1.2.3", true),
            ("::ffff:10.1.2.3", true),
            ("10.2.0.1", false),
            ("fd12::1", true),
            ("fd13::1", false),
        ] {
            assert_eq!(reach.allows(address.parse().unwrap()), allowed, "{address}");
        }
    }

    #[test]
    fn hosts_are_listed_by_name_or_by_the_domain_above() {
        let reach = reach(&["Hooks.Example.org", "*.corp.example", "10.0.0.1"], &[]);
        for (host, listed) in [
            ("hooks.example.org", true),
            ("HOOKS.example.org.", true),
            ("evil-hooks.example.org", false),
            ("hooks.example.org.evil.test", false),
            ("a.corp.example", true),
            ("a.b.corp.example", true),
            ("corp.example", false),
            ("evilcorp.example", false),
            ("10.0.0.1", true),
            ("", false),
        ] {
            assert_eq!(reach.lists_host(host), listed, "{host}");
        }
        assert!(!Reach::default().lists_host("hooks.example.org"));
    }
}
