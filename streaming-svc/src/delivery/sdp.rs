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

/// Names `host` as the description's origin and as the address that the media come from. Players
/// are sent the null address there, as RTSP asks; a description that is passed on by itself shall
/// say where its film is.
pub(super) fn with_host(sdp: &str, host: IpAddr) -> String {
    let kind = if host.is_ipv4() { "IP4" } else { "IP6" };
    let mut text = String::with_capacity(sdp.len() + 64);
    for line in sdp.lines() {
        if line.starts_with("c=IN ") {
            text.push_str(&format!("c=IN {kind} {host}"));
        } else if line.starts_with("o=")
            && let [user, session, version, ..] = line.split(' ').collect::<Vec<_>>()[..]
        {
            text.push_str(&format!("{user} {session} {version} IN {kind} {host}"));
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
    fn the_host_is_named_as_origin_and_connection() {
        let sdp = "v=0\r\no=- 1 1 IN IP4 127.0.0.1\r\ns=x\r\nm=video 0 RTP/AVP 96\r\n\
                   c=IN IP4 0.0.0.0\r\na=control:stream=0\r\n";
        let host = "2001:db8::1".parse().unwrap();
        assert_eq!(
            with_host(sdp, host),
            "v=0\r\no=- 1 1 IN IP6 2001:db8::1\r\ns=x\r\nm=video 0 RTP/AVP 96\r\n\
             c=IN IP6 2001:db8::1\r\na=control:stream=0\r\n"
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
