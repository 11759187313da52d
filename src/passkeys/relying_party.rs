//! The relying party: the domain that passkeys are bound to, and the origins of its pages.

use webauthn_rs::prelude::{Url, Webauthn, WebauthnBuilder};

use super::RelyingParty;

/// The relying party as configured, not yet checked.
#[derive(Clone, Copy, Debug)]
pub struct Written<'a> {
    /// `passkeys.relying_party_id`; if empty, the host of `public_url`.
    pub id: &'a str,
    /// `passkeys.origins`; if empty, the origin of `public_url`.
    pub origins: &'a [String],
    /// `public_url`: how users reach the appliance.
    pub public_url: &'a str,
    /// Name that browsers show.
    pub name: &'a str,
}

/// Passkeys are bound to a domain. This is the only name that stands for an address: the user's own machine.
const LOCALHOST: &str = "localhost";

impl RelyingParty {
    /// Checks the configuration. If it is empty and `public_url` is an address, passkeys are off: browsers
    /// support none for addresses (Web Authentication §5.1.3 step 7). If `public_url` is this machine, the
    /// origin is `localhost`, at any port.
    ///
    /// # Errors
    /// Every problem, each beginning with its key.
    pub fn read(written: &Written<'_>) -> Result<Self, Vec<String>> {
        let own = Url::parse(written.public_url).ok().filter(Url::has_host);
        let at_home = written.origins.is_empty() && own.as_ref().is_some_and(is_own_machine);
        let mut problems = Vec::new();
        let mut origins = Vec::new();
        for text in written.origins {
            match read_origin(text) {
                Ok(origin) => origins.push(origin),
                Err(problem) => problems.push(format!("passkeys.origins: {text:?} {problem}")),
            }
        }
        if written.origins.is_empty()
            && let Some(mut own) = own
        {
            if at_home {
                own.set_host(Some(LOCALHOST)).expect("a name is a host");
            }
            origins.push(own);
        }
        let id = match (written.id, origins.first().and_then(Url::domain)) {
            ("", Some(domain)) => domain.to_owned(),
            ("", None) if written.origins.is_empty() => return Ok(Self::default()),
            ("", None) => String::new(), // its origin is a problem already
            (id, _) => id.to_owned(),
        };
        if !written.id.is_empty() && !is_domain(&id) {
            problems.push(format!(
                "passkeys.relying_party_id: {id:?} is not a domain in lower case such as example.org"
            ));
        }
        for origin in &origins {
            if problems.is_empty() && !is_under(origin, &id) {
                problems.push(format!(
                    "passkeys.origins: {:?} is not {id:?} (passkeys.relying_party_id) or a name below it",
                    origin.origin().ascii_serialization()
                ));
            }
        }
        if !problems.is_empty() {
            return Err(problems);
        }
        let webauthn = build(&id, &origins, written.name, at_home && id == LOCALHOST)
            .map_err(|error| vec![format!("passkeys: {error}")])?;
        Ok(Self {
            webauthn: Some(webauthn),
            id: Some(id),
        })
    }

    /// Returns the domain that passkeys are bound to; `None` if they are off.
    #[must_use]
    pub fn id(&self) -> Option<&str> {
        self.id.as_deref()
    }

    /// Returns the origins whose pages may use passkeys.
    #[must_use]
    pub fn origins(&self) -> Vec<String> {
        let origins = self.webauthn.iter().flat_map(Webauthn::get_allowed_origins);
        origins.map(|url| url.origin().ascii_serialization()).collect()
    }
}

fn build(id: &str, origins: &[Url], name: &str, any_port: bool) -> Result<Webauthn, String> {
    let (first, rest) = origins.split_first().ok_or("there is no origin")?;
    let builder = WebauthnBuilder::new(id, first).map_err(|error| error.to_string())?;
    let builder = rest.iter().fold(builder, WebauthnBuilder::append_allowed_origin);
    let builder = builder.rp_name(name).allow_any_port(any_port);
    builder.build().map_err(|error| error.to_string())
}

fn read_origin(text: &str) -> Result<Url, &'static str> {
    let shape = "is not an origin such as https://mfa.example.org";
    let url = Url::parse(text).map_err(|_| shape)?;
    let plain = url.origin().ascii_serialization() == text.trim_end_matches('/');
    match (url.scheme(), url.domain()) {
        _ if !plain => Err(shape),
        ("https", Some(_)) | ("http", Some(LOCALHOST)) => Ok(url),
        ("http", Some(_)) => Err("has to be https: browsers have passkeys for nothing else but localhost"),
        _ => Err(shape),
    }
}

fn is_own_machine(url: &Url) -> bool {
    let host = url.host_str().unwrap_or_default();
    let address = host.trim_start_matches('[').trim_end_matches(']').parse();
    host == LOCALHOST || address.is_ok_and(|address: std::net::IpAddr| address.is_loopback())
}

fn is_domain(text: &str) -> bool {
    let label = |label: &str| {
        !label.is_empty()
            && label
                .bytes()
                .all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-')
    };
    (text == LOCALHOST || text.contains('.'))
        && text.split('.').all(label)
        && text.parse::<std::net::IpAddr>().is_err()
}

fn is_under(origin: &Url, id: &str) -> bool {
    origin.domain().is_some_and(|domain| {
        domain == id
            || domain
                .strip_suffix(id)
                .is_some_and(|before| before.ends_with('.'))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(id: &str, origins: &[&str], public_url: &str) -> Result<(Option<String>, Vec<String>), String> {
        let origins: Vec<_> = origins.iter().map(ToString::to_string).collect();
        let written = Written {
            id,
            origins: &origins,
            public_url,
            name: "Latchkey",
        };
        let read = RelyingParty::read(&written).map_err(|problems| problems.join("; "))?;
        Ok((read.id().map(str::to_owned), read.origins()))
    }

    #[test]
    fn what_is_not_written_comes_from_the_public_url() {
        let found = |id: &str, origin: &str| Ok((Some(id.to_owned()), vec![origin.to_owned()]));
        assert_eq!(
            read("", &[], "https://mfa.example.org/base"),
            found("mfa.example.org", "https://mfa.example.org")
        );
        assert_eq!(
            read("example.org", &[], "https://mfa.example.org:8443"),
            found("example.org", "https://mfa.example.org:8443")
        );
        for own in [
            "http://127.0.0.1:8080",
            "http://[::1]:8080",
            "http://localhost:8080",
        ] {
            assert_eq!(
                read("", &[], own),
                found("localhost", "http://localhost:8080"),
                "{own}"
            );
        }
        assert_eq!(
            read("", &[], "https://192.0.2.7"),
            Ok((None, vec![])),
            "there are no passkeys for an address"
        );
    }

    #[test]
    fn several_origins_share_a_relying_party() {
        let read = read(
            "example.org",
            &["https://mfa.example.org", "https://example.org"],
            "https://192.0.2.7",
        );
        let origins = ["https://mfa.example.org", "https://example.org"].map(str::to_owned);
        assert_eq!(read, Ok((Some("example.org".to_owned()), origins.to_vec())));
    }

    #[test]
    fn what_can_not_work_is_refused_with_its_key() {
        for (id, origin, problem) in [
            (
                "Example.org",
                "https://example.org",
                "passkeys.relying_party_id: \"Example.org\" is not",
            ),
            (
                "192.0.2.7",
                "https://example.org",
                "passkeys.relying_party_id: \"192.0.2.7\" is not",
            ),
            (
                "org",
                "https://example.org",
                "passkeys.relying_party_id: \"org\" is not",
            ),
            (
                "",
                "http://example.org",
                "passkeys.origins: \"http://example.org\" has to be https",
            ),
            (
                "",
                "https://192.0.2.7",
                "passkeys.origins: \"https://192.0.2.7\" is not an origin",
            ),
            (
                "",
                "https://example.org/page",
                "passkeys.origins: \"https://example.org/page\" is not an origin",
            ),
            ("", "nonsense", "passkeys.origins: \"nonsense\" is not an origin"),
            (
                "example.org",
                "https://notexample.org",
                "\"https://notexample.org\" is not \"example.org\" (passkeys.relying_party_id) or a name below it",
            ),
        ] {
            let refused = read(id, &[origin], "https://mfa.example.org").expect_err(origin);
            assert!(refused.contains(problem), "{id} {origin}: {refused}");
        }
        let refused = read("example.com", &[], "https://mfa.example.org").expect_err("elsewhere");
        assert!(
            refused.contains("\"https://mfa.example.org\" is not \"example.com\""),
            "{refused}"
        );
    }
}
