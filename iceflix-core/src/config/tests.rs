use super::*;

#[derive(Debug, Deserialize)]
struct Sample {
    #[serde(flatten)]
    common: Common,
    #[serde(default)]
    media: Vec<PathBuf>,
}

impl ServiceConfig for Sample {
    const KIND: Kind = Kind::Streaming;
    const KEYS: &'static [Key] = &[key("media", Shape::List, "Directories")];

    fn common(&self) -> &Common {
        &self.common
    }
}

fn load_with(file: &str, flags: &[&str]) -> Result<Sample, ConfigError> {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("sample.toml");
    std::fs::write(&path, file).unwrap();
    let mut arguments = vec!["sample".into(), "--config".into(), path.into_os_string()];
    arguments.extend(flags.iter().map(OsString::from));
    load(arguments)
}

#[test]
fn the_default_runs_on_this_machine() {
    let config: Sample = load(["sample".into()]).unwrap();
    assert!(config.common.listen.ip().is_loopback());
    assert!(config.common.stays_on_this_machine());
    assert_eq!(
        config.common.identity(),
        Path::new(".iceflix/state/identity")
    );
}

#[test]
fn a_flag_wins_over_the_file() {
    let file = "cluster = \"lab\"\nmedia = [\"/a\"]\nbus_scouting = true";
    let flags = [
        "--media",
        "/b",
        "--media",
        "/c,d",
        "--bus-scouting",
        "false",
    ];
    let config = load_with(file, &flags).unwrap();
    assert_eq!(config.common.cluster.as_str(), "lab");
    assert_eq!(config.media, [PathBuf::from("/b"), PathBuf::from("/c,d")]);
    assert!(!config.common.bus_scouting);
}

#[test]
fn an_unknown_key_is_named_with_the_nearest() {
    let error = load_with("bus_lisen = []", &[]).unwrap_err().to_string();
    assert!(
        error.contains("`bus_lisen`") && error.contains("`bus_listen`"),
        "{error}"
    );
    let error = load_with("zzz = 1", &[]).unwrap_err().to_string();
    assert!(
        error.contains("`zzz`") && !error.contains("did you mean"),
        "{error}"
    );
}

#[test]
fn values_that_do_not_fit_are_refused() {
    for file in [
        "listen = \"nonsense\"",
        "cluster = \"No/Good\"",
        "log_format = \"xml\"",
        "media = 3",
        "this is not toml",
    ] {
        assert!(load_with(file, &[]).is_err(), "{file}");
    }
    assert!(load_with("", &["--bus-scouting", "perhaps"]).is_err());
}

#[test]
fn the_bus_speaks_tls_at_addresses() {
    for key in ["bus_listen", "bus_connect"] {
        for bad in ["nonsense", "tcp/127.0.0.1:7447", "tls/somewhere:7447"] {
            let error = load_with(&format!("{key} = [{bad:?}]"), &[]);
            let error = error.unwrap_err().to_string();
            assert!(error.contains(key), "{error}");
            assert!(error.contains("tls/ADDRESS:PORT"), "{error}");
        }
    }
    let open = load_with("bus_listen = [\"tls/127.0.0.1:0\", \"tls/0.0.0.0:0\"]", &[]);
    assert!(!open.unwrap().common.stays_on_this_machine());
}

#[test]
fn a_missing_file_is_named() {
    let arguments = ["sample", "--config", "/nonexistent/x.toml"];
    let error = load::<Sample>(arguments.map(OsString::from))
        .unwrap_err()
        .to_string();
    assert!(error.contains("/nonexistent/x.toml"), "{error}");
}

#[test]
fn a_list_in_the_environment_is_separated_by_commas() {
    let texts = |value| list(value).collect::<Vec<_>>();
    assert_eq!(texts("/a"), ["/a"]);
    assert_eq!(texts("/a,/b c,/d"), ["/a", "/b c", "/d"]);
    assert_eq!(texts(" /a , ,/b,"), ["/a", "/b"]);
    for nothing in ["", " ", ","] {
        assert_eq!(texts(nothing), [""; 0], "{nothing:?}");
    }
}
