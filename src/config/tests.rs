use super::*;

fn problems(toml: &str) -> String {
    Config::load(&Sources::from_text(toml)).unwrap_err().to_string()
}

#[test]
fn the_example_is_the_built_in_configuration_with_every_key() {
    let built_in = serde_json::to_value(RawConfig::default()).unwrap();
    let example = Sources::from_text(EXAMPLE).read().unwrap().raw;
    assert_eq!(serde_json::to_value(example).unwrap(), built_in);
    let written: toml::Table = EXAMPLE.parse().unwrap();
    let mut keys = Vec::new();
    sources::known_keys(&built_in, "", &mut keys);
    for key in keys {
        let found = key
            .split('.')
            .try_fold(&toml::Value::Table(written.clone()), |value, part| {
                value.get(part)
            })
            .is_some();
        let commented = EXAMPLE.contains(&format!("#{} = ", key.rsplit('.').next().unwrap()));
        assert!(found || commented, "{key} is missing in the example");
    }
}

#[test]
fn the_built_in_values_pass() {
    let config = Config::for_data_dir(Path::new("/tmp/x"));
    assert_eq!(config.listen.to_string(), "127.0.0.1:8080");
    assert_eq!(config.plugins.cache_dir, Path::new("/tmp/x/plugin-cache"));
}

#[test]
fn an_unknown_key_is_refused_with_its_name_and_the_nearest() {
    let text = problems("[http]\nbody_limit_byte = 5\n");
    assert!(
        text.contains("http.body_limit_byte is unknown; did you mean http.body_limit_bytes?"),
        "{text}"
    );
    let text = problems("refresh_secs = 5\n");
    assert!(
        text.contains("refresh_secs is unknown; did you mean tokens.refresh_secs?"),
        "{text}"
    );
    let text = problems("[limits.reset_by_user]\nrequests = 1\nwindow_secs = 1\n");
    assert!(text.contains("limits.reset_by_user is unknown"), "{text}");
}

#[test]
fn every_problem_is_reported_at_once() {
    let text = problems(
        "listen = \"8080\"\npublic_url = \"ftp://x\"\n[tokens]\naccess_secs = 5\n[factors]\nissuer = \"a:b\"\n\
         [proxies]\ntrusted = [\"10.0.0.0/8\", \"nonsense\"]\n[log]\nlevel = \"latchkey=loud\"\n\
         [http]\nmax_headers = \"many\"\nbody_timeout_secs = true\nmax_header = 5\n\
         [limits.reset_by_caller]\nrequests = -1\nper = 60\n",
    );
    for part in [
        "11 problems",
        "http.max_header is unknown; did you mean http.max_headers?",
        "limits.reset_by_caller.per is unknown",
        "http.max_headers: ",
        "http.body_timeout_secs: ",
        "limits.reset_by_caller.requests: invalid value signed int `-1`, expected u32 (in the given text)",
        "listen: \"8080\"",
        "public_url: \"ftp://x\"",
        "tokens.access_secs: 5 is not between 60 and 86400",
        "factors.issuer",
        "proxies.trusted: \"nonsense\"",
        "log.level",
    ] {
        assert!(text.contains(part), "{part} in {text}");
    }
}

#[test]
fn a_word_that_is_no_level_is_refused() {
    let with = |level: &str| Config::load(&Sources::from_text(&format!("[log]\nlevel = \"{level}\"\n")));
    for level in ["verbose", "info,latchkey", "info, waring"] {
        let text = with(level).unwrap_err().to_string();
        let word = level.rsplit([',', ' ']).next().unwrap();
        let says = format!("log.level: {word} is not a level; use off, error, warn, info, debug, trace");
        assert!(text.contains(&says), "{text}");
    }
    for level in [
        "off",
        "INFO",
        "trace",
        "warn,latchkey=debug",
        "latchkey::service=off,error",
    ] {
        assert!(with(level).is_ok(), "{level}");
    }
}

#[test]
fn variables_of_clients_and_of_kubernetes_are_passed_over_and_no_others() {
    let with = |name: &str| {
        let mut sources = Sources::from_text("");
        sources.variables = vec![(name.to_owned(), "tcp://10.0.0.1:8080".to_owned())];
        Config::load(&sources)
    };
    for name in [
        "LATCHKEY_URL",
        "LATCHKEY_TOKEN",
        "LATCHKEY_SERVICE_HOST",
        "LATCHKEY_SERVICE_PORT",
        "LATCHKEY_SERVICE_PORT_HTTP",
        "LATCHKEY_PORT",
        "LATCHKEY_PORT_8080_TCP",
        "LATCHKEY_PORT_8080_TCP_ADDR",
    ] {
        assert!(with(name).is_ok(), "{name}");
    }
    for name in [
        "LATCHKEY_URLS",
        "LATCHKEY_TOKEN_SECS",
        "LATCHKEY_TOKEN__ACCESS_SECS",
        "LATCHKEY_SERVICE",
        "LATCHKEY_SERVICE_HOSTS",
        "LATCHKEY_PORTS",
    ] {
        let text = with(name).unwrap_err().to_string();
        assert!(text.contains(&format!("{name} is unknown")), "{text}");
    }
}

#[test]
fn a_wrong_type_names_key_and_source() {
    let text = problems("[http]\nmax_headers = \"many\"\n");
    assert!(
        text.contains("http.max_headers") && text.contains("found string \"many\", expected u64"),
        "{text}"
    );
    let text = problems("[proxies]\ntrusted = [\"10.0.0.0/8\", 5]\n");
    assert!(text.contains("proxies.trusted.1"), "{text}");
    let text = problems("http = 5\nlisten = \"8080\"\n");
    assert!(text.contains("2 problems") && text.contains("http: "), "{text}");
    let text = problems("[http\n");
    assert!(text.contains("TOML"), "{text}");
}

#[test]
fn variables_beat_the_file_and_flags_beat_both() {
    let mut sources =
        Sources::from_text("listen = \"127.0.0.1:1\"\ndata_dir = \"file\"\n[log]\nformat = \"json\"\n");
    sources.variables = [
        ("LATCHKEY_LISTEN", "127.0.0.1:2"),
        ("LATCHKEY_LOG__LEVEL", "debug"),
        ("LATCHKEY_LIMITS__RESET_BY_TARGET__REQUESTS", "7"),
        ("LATCHKEY_PROXIES__TRUSTED", "[\"10.0.0.0/8\", \"::1\"]"),
        ("HOME", "/root"),
    ]
    .map(|(name, value)| (name.to_owned(), value.to_owned()))
    .to_vec();
    sources.flags.listen = Some("127.0.0.1:3".to_owned());
    let config = Config::load(&sources).unwrap();
    assert_eq!(config.listen.port(), 3);
    assert_eq!(config.data_dir, Path::new("file"));
    assert_eq!(
        config.log,
        LogConfig {
            format: LogFormat::Json,
            filter: "debug".to_owned()
        }
    );
    assert_eq!(config.limits.reset_by_target.requests, 7);
    assert_eq!(config.limits.reset_by_target.window_secs, 3600);
    assert_eq!(config.trusted_proxies.len(), 2);
    sources.flags.listen = None;
    assert_eq!(Config::load(&sources).unwrap().listen.port(), 2);
}

#[test]
fn an_unknown_variable_is_refused_by_its_own_name() {
    let mut sources = Sources::from_text("");
    sources.variables = vec![("LATCHKEY_LOG__LEVLE".to_owned(), "debug".to_owned())];
    let text = Config::load(&sources).unwrap_err().to_string();
    assert!(
        text.contains("LATCHKEY_LOG__LEVLE is unknown; did you mean LATCHKEY_LOG__LEVEL?"),
        "{text}"
    );
    sources.variables = vec![("LATCHKEY_HTP__MAX_HEADERS".to_owned(), "64".to_owned())];
    let text = Config::load(&sources).unwrap_err().to_string();
    assert!(
        text.contains("LATCHKEY_HTP__MAX_HEADERS is unknown; did you mean LATCHKEY_HTTP__…?"),
        "{text}"
    );
}

#[test]
fn another_issuer_is_checked_with_its_keys() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("jwks.json");
    let text = |issuer: &str| {
        format!(
            "[external_issuer]\nissuer = {issuer:?}\njwks_file = {:?}\nuser_claim = \"\"\n\
             roles = [\"it=ROOT\"]\n",
            file.display().to_string()
        )
    };
    assert!(
        Config::load(&Sources::from_text(&text(""))).is_ok(),
        "off without an issuer"
    );
    let on = text("https://login.example.org");
    let missing = problems(&on);
    for part in [
        "user_claim: is empty",
        "\"it=ROOT\" is not a role",
        "No such file",
    ] {
        assert!(missing.contains(part), "{part} in {missing}");
    }
    std::fs::write(&file, r#"{"keys": [{"kty": "oct", "k": "c2VjcmV0"}]}"#).unwrap();
    assert!(problems(&on).contains("only public keys"));
    let x = "11qYAYKxCrfVS_7TyWQHOg7hcvPapiMlrwIaaPcHURo"; // RFC 8037, appendix A.2
    std::fs::write(
        &file,
        format!(r#"{{"keys": [{{"kty": "OKP", "crv": "Ed25519", "x": "{x}"}}]}}"#),
    )
    .unwrap();
    let good = on.replace("user_claim = \"\"\n", "").replace("ROOT", "ORG_ADMIN");
    let external = Config::load(&Sources::from_text(&good))
        .unwrap()
        .external_issuer
        .unwrap();
    assert_eq!(external.rules.user_claim, "email");
}

#[test]
fn metrics_are_off_by_default_and_open_to_others_with_a_token_alone() {
    assert!(Config::for_data_dir(Path::new("/tmp/x")).metrics.is_none());
    let on = |toml: &str| Config::load(&Sources::from_text(toml)).map(|config| config.metrics.unwrap());
    for loopback in ["127.0.0.1:9464", "[::1]:9464", "[::ffff:127.0.0.1]:9464"] {
        let metrics = on(&format!("[metrics]\nlisten = \"{loopback}\"\n")).unwrap();
        assert!(metrics.token.is_none(), "{loopback}");
    }
    for open in ["0.0.0.0:9464", "[::]:9464", "192.0.2.7:9464"] {
        let text = problems(&format!("[metrics]\nlisten = \"{open}\"\n"));
        assert!(
            text.contains("metrics.token_file: is needed for metrics.listen"),
            "{text}"
        );
    }
    let text = problems("[metrics]\nlisten = \"9464\"\n");
    assert!(
        text.contains("metrics.listen: \"9464\" is not an address and port"),
        "{text}"
    );

    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("token");
    let with = |listen: &str| {
        format!(
            "[metrics]\nlisten = \"{listen}\"\ntoken_file = {:?}\n",
            file.display().to_string()
        )
    };
    let text = problems(&with("0.0.0.0:9464"));
    assert!(
        text.contains("metrics.token_file: ") && text.contains("No such file"),
        "{text}"
    );
    std::fs::write(&file, "short\n").unwrap();
    let text = problems(&with("0.0.0.0:9464"));
    assert!(
        text.contains("fewer than 16 characters") && !text.contains("short"),
        "{text}"
    );
    std::fs::write(&file, "correct-horse-battery\nmore\n").unwrap();
    let metrics = on(&with("0.0.0.0:9464")).unwrap();
    assert_eq!(metrics.token.as_ref().unwrap().as_str(), "correct-horse-battery");
    assert!(!format!("{metrics:?}").contains("horse"), "{metrics:?}");
    let text = problems(&with(""));
    assert!(
        text.contains("metrics.token_file: has no effect without metrics.listen"),
        "{text}"
    );
}

#[test]
fn organisations_to_forward_are_refused_where_nothing_is_forwarded() {
    let with = |more: &str| {
        let text = format!("[audit]\nforward_organizations = [\"acme\"]\n{more}");
        Config::load(&Sources::from_text(&text))
    };
    let text = with("").unwrap_err().to_string();
    let says =
        "audit.forward_organizations: has no effect without audit.forward_syslog or audit.forward_webhook";
    assert!(text.contains(says), "{text}");
    assert!(with("forward_syslog = true\n[syslog]\ntarget = \"unix:/dev/log\"\n").is_ok());
}

#[test]
fn a_named_file_without_an_end_is_refused_instead_of_read() {
    let named = |path: &str| {
        problems(&format!(
            "[external_issuer]\nissuer = \"https://login.example.org\"\njwks_file = {path:?}\n\
             [mail]\nhost = \"mail.example.org\"\nusername = \"latchkey\"\npassword_file = {path:?}\n"
        ))
    };
    let endless = named("/dev/zero");
    for key in ["external_issuer.jwks_file", "mail.password_file"] {
        assert!(
            endless.contains(&format!("{key}: /dev/zero: it is not a regular file")),
            "{endless}"
        );
    }
    let dir = tempfile::tempdir().unwrap();
    let large = dir.path().join("large");
    std::fs::write(&large, vec![b' '; (1 << 20) + 1]).unwrap();
    assert!(named(large.to_str().unwrap()).contains("it is larger than 1 MiB"));
}
