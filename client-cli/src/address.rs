//! Where a Main is, as people write it.

/// Checks that a Main is given as HOST:PORT.
pub fn parse_main(text: &str) -> Result<String, String> {
    let wanted = || "a Main is given as HOST:PORT, for example 127.0.0.1:7000".to_owned();
    let (host, port) = text.rsplit_once(':').ok_or_else(wanted)?;
    let bracketed = host.starts_with('[') && host.ends_with(']');
    let host_is_plain = !host.is_empty() && !host.contains(|c: char| c.is_whitespace() || c == '/');
    if !host_is_plain || (host.contains(':') && !bracketed) {
        return Err(wanted());
    }
    match port.parse::<u16>() {
        Ok(1..) => Ok(text.to_owned()),
        _ => Err(wanted()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn mains_are_host_and_port() {
        for good in [
            "localhost:1",
            "10.0.0.1:65535",
            "[::1]:80",
            "main.example:7000",
        ] {
            assert!(parse_main(good).is_ok(), "{good}");
        }
        for bad in [
            "",
            "localhost",
            ":1",
            "a:0",
            "a:65536",
            "a:b",
            "::1:80",
            "a b:1",
            "http://a:1",
        ] {
            assert!(parse_main(bad).is_err(), "{bad}");
        }
    }
}
