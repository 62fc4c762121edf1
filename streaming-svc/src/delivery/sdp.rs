//! Asking the own server for a stream's session description, as a player would.

use std::{io, net::IpAddr, net::SocketAddr, time::Duration};
use tokio::{
    io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader},
    net::TcpStream,
    time::timeout,
};

/// How long an answer may take. Building a pipeline takes milliseconds; a disk that has to spin up
/// takes seconds.
const PATIENCE: Duration = Duration::from_secs(15);
/// The longest answer that is read, in bytes. A description has about 1 KB.
const LONGEST: u64 = 64 << 10;

/// Why there is no description.
#[derive(Debug, thiserror::Error)]
pub enum DescribeError {
    /// The connection failed.
    #[error("the RTSP server could not be asked")]
    Io(#[from] io::Error),
    /// No answer in time.
    #[error("the RTSP server did not answer within {} s", PATIENCE.as_secs())]
    Timeout,
    /// It refused, with this status code.
    #[error("the RTSP server refused with status {0}")]
    Refused(u16),
    /// The answer was not understood.
    #[error("the RTSP server's answer was not understood: {0}")]
    Malformed(&'static str),
}

/// Asks the server at the first of `addresses` that can be reached to describe `url`.
pub(super) async fn describe(addresses: &[SocketAddr], url: &str) -> Result<String, DescribeError> {
    timeout(PATIENCE, async {
        let mut connection = TcpStream::connect(addresses).await?;
        let request =
            format!("DESCRIBE {url} RTSP/1.0\r\nCSeq: 1\r\nAccept: application/sdp\r\n\r\n");
        connection.write_all(request.as_bytes()).await?;
        read_answer(BufReader::new(connection.take(LONGEST))).await
    })
    .await
    .map_err(|_| DescribeError::Timeout)?
}

/// Reads one RTSP response and gives its body.
async fn read_answer(
    mut answer: impl tokio::io::AsyncBufRead + Unpin,
) -> Result<String, DescribeError> {
    let mut line = String::new();
    answer.read_line(&mut line).await?;
    let status = line
        .strip_prefix("RTSP/")
        .and_then(|rest| rest.split_ascii_whitespace().nth(1))
        .and_then(|code| code.parse().ok())
        .ok_or(DescribeError::Malformed("no status line"))?;
    if status != 200 {
        return Err(DescribeError::Refused(status));
    }
    let mut length = None;
    loop {
        line.clear();
        if answer.read_line(&mut line).await? == 0 {
            return Err(DescribeError::Malformed("it ended within the headers"));
        }
        if line.trim_end().is_empty() {
            break;
        }
        if let Some((name, value)) = line.split_once(':')
            && name.eq_ignore_ascii_case("content-length")
        {
            length = value.trim().parse::<u64>().ok();
        }
    }
    let length = length
        .filter(|&length| length <= LONGEST)
        .ok_or(DescribeError::Malformed("no usable content length"))?;
    let mut body = String::new();
    answer.take(length).read_to_string(&mut body).await?;
    if body.len() as u64 == length {
        Ok(body)
    } else {
        Err(DescribeError::Malformed("it ended within the body"))
    }
}

/// Names `host` as the description's origin, and `client` as where the media go (RFC 8866, 5.2 and
/// 5.7). A player that asks by RTSP is sent the null address there, since it says itself in SETUP
/// where it wants them (RFC 2326, C.1.7); a description by itself shall say whose it is.
pub(super) fn between(sdp: &str, host: IpAddr, client: IpAddr) -> String {
    let named = |address: IpAddr| {
        let kind = if address.is_ipv4() { "IP4" } else { "IP6" };
        format!("IN {kind} {address}")
    };
    let (origin, connection) = (named(host), named(client));
    let mut text = String::with_capacity(sdp.len() + 64);
    for line in sdp.lines() {
        if line.starts_with("c=IN ") {
            text.push_str(&format!("c={connection}"));
        } else if line.starts_with("o=")
            && let [user, session, version, ..] = line.split(' ').collect::<Vec<_>>()[..]
        {
            text.push_str(&format!("{user} {session} {version} {origin}"));
        } else {
            text.push_str(line);
        }
        text.push_str("\r\n");
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_node_is_its_origin_and_the_client_its_connection() {
        let sdp = "v=0\r\no=- 1 1 IN IP4 127.0.0.1\r\ns=x\r\nm=video 0 RTP/AVP 96\r\n\
                   c=IN IP4 0.0.0.0\r\na=control:stream=0\r\n";
        let host = "2001:db8::1".parse().unwrap();
        let client = "2001:db8::2".parse().unwrap();
        assert_eq!(
            between(sdp, host, client),
            "v=0\r\no=- 1 1 IN IP6 2001:db8::1\r\ns=x\r\nm=video 0 RTP/AVP 96\r\n\
             c=IN IP6 2001:db8::2\r\na=control:stream=0\r\n"
        );
    }

    async fn answer(text: &str) -> Result<String, DescribeError> {
        read_answer(text.as_bytes()).await
    }

    #[tokio::test]
    async fn answers_are_read_with_care() {
        let good = answer("RTSP/1.0 200 OK\r\nCSeq: 1\r\ncontent-length: 3\r\n\r\nv=0").await;
        assert_eq!(good.unwrap(), "v=0");
        let refused = answer("RTSP/1.0 404 Not Found\r\n\r\n").await;
        assert!(matches!(refused, Err(DescribeError::Refused(404))));
        for bad in [
            "",
            "HTTP/1.1 200 OK\r\n\r\n",
            "RTSP/1.0 200 OK\r\n",
            "RTSP/1.0 200 OK\r\n\r\n",
            "RTSP/1.0 200 OK\r\nContent-Length: 99999999\r\n\r\n",
            "RTSP/1.0 200 OK\r\nContent-Length: 9\r\n\r\nv=0",
        ] {
            let got = answer(bad).await;
            assert!(matches!(got, Err(DescribeError::Malformed(_))), "{bad:?}");
        }
    }
}
