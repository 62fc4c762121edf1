//! Streams that need nobody's attention, and all that there are.

use super::Shell;
use super::films::short_id;
use crate::cli::{Film, StreamCommand};
use crate::error::Error;
use crate::output::{plain, say, table};
use crate::streams::{Found, Streams};
use iceflix_core::api::{MediaId, StreamHandle};
use iceflix_core::span::Span;
use serde::Serialize;
use std::collections::BTreeMap;
use std::net::IpAddr;
use time::OffsetDateTime;

/// A granted stream, for `url --for --json`.
#[derive(Debug, Serialize)]
struct GrantedDocument<'a> {
    url: &'a str,
    stream: String,
    handle: StreamHandle,
    until: u64,
}

/// A stream in `stream list --json`.
#[derive(Debug, Serialize)]
struct StreamRow<'a> {
    handle: StreamHandle,
    id: MediaId,
    name: Option<&'a str>,
    user: &'a str,
    node: &'a str,
    since: u64,
    until: Option<u64>,
    from: IpAddr,
    any_host: bool,
    players: u32,
    granted: bool,
}

impl<'a> StreamRow<'a> {
    fn new(found: &'a Found, names: &'a BTreeMap<MediaId, String>) -> Self {
        let stream = &found.stream;
        Self {
            handle: stream.handle,
            id: stream.media,
            name: names.get(&stream.media).map(String::as_str),
            user: &stream.user,
            node: found.node.instance.as_str(),
            since: stream.since,
            until: stream.until,
            from: stream.from,
            any_host: stream.any_host,
            players: stream.players,
            granted: stream.grant.is_some(),
        }
    }
}

impl Shell {
    /// `url --for`: a stream that goes on by itself.
    pub(super) async fn granted_url(&mut self, film: &Film, lasting: Span) -> Result<(), Error> {
        let details = self.details(film).await?;
        let (live, until) = self.client()?.granted_stream(&details, lasting).await?;
        let handle = live.stream.stream.handle();
        let document = GrantedDocument {
            url: &live.stream.url,
            stream: live.stream.stream.to_string(),
            handle,
            until,
        };
        self.out
            .result(&document, || format!("{}\n", live.stream.url))?;
        say(&format!(
            "{} can be watched there, by whoever has the URL, until {}; `stream stop {}` ends it",
            plain(&live.name),
            moment(until),
            &handle.to_string()[..super::films::SHORT_ID],
        ));
        Ok(())
    }

    pub(super) async fn streams(&mut self, command: StreamCommand) -> Result<(), Error> {
        match command {
            StreamCommand::List => self.list_streams().await,
            StreamCommand::Stop { handle } => self.stop_stream(&handle).await,
        }
    }

    async fn list_streams(&self) -> Result<(), Error> {
        let client = self.client()?;
        let streams = client.streams().await?;
        let films = streams.found.iter().map(|found| found.stream.media);
        let names = client.names(films.collect()).await;
        if !streams.silent.is_empty() {
            say(&format!(
                "{} did not answer; streams there are not listed",
                streams.silent.join(", ")
            ));
        }
        if streams.found.is_empty() {
            say("nothing is being streamed");
        }
        let rows = streams.found.iter();
        let rows: Vec<StreamRow<'_>> = rows.map(|found| StreamRow::new(found, &names)).collect();
        let now = iceflix_core::trust::now().as_secs();
        self.out.result(&rows, || match rows.is_empty() {
            true => String::new(),
            false => describe(&rows, now, self.out.width),
        })
    }

    async fn stop_stream(&self, handle: &str) -> Result<(), Error> {
        let client = self.client()?;
        let streams = client.streams().await?;
        let found = the_one(&streams, handle)?;
        client.stop_found(found).await?;
        #[derive(Serialize)]
        struct Stopped {
            handle: StreamHandle,
        }
        let handle = found.stream.handle;
        let words = format!("stopped {}", &handle.to_string()[..super::films::SHORT_ID]);
        self.out.confirm(&Stopped { handle }, &words)
    }
}

/// The stream whose handle begins so.
fn the_one<'a>(streams: &'a Streams, beginning: &str) -> Result<&'a Found, Error> {
    let fits = |found: &&Found| found.stream.handle.to_string().starts_with(beginning);
    let fitting: Vec<&Found> = streams.found.iter().filter(fits).collect();
    match fitting.as_slice() {
        [found] => Ok(found),
        [] if streams.silent.is_empty() => Err(Error::NotFound(format!(
            "no stream's handle begins with {beginning}; `stream list` shows them"
        ))),
        [] => Err(Error::NotFound(format!(
            "no stream's handle begins with {beginning}, but {} did not answer",
            streams.silent.join(", ")
        ))),
        several => {
            let handles = several.iter().map(|found| found.stream.handle);
            let list: Vec<String> = handles.map(|handle| format!("\n  {handle}")).collect();
            Err(Error::NotFound(format!(
                "several streams' handles begin with {beginning}; type more of one of them:{}",
                list.concat()
            )))
        }
    }
}

fn describe(rows: &[StreamRow<'_>], now: u64, width: Option<usize>) -> String {
    let handles: Vec<String> = rows.iter().map(|row| row.handle.to_string()).collect();
    let digits = short_id(&handles);
    let lines: Vec<Vec<String>> = rows
        .iter()
        .zip(&handles)
        .map(|(row, handle)| {
            let film = match row.name {
                Some(name) => plain(name),
                None => row.id.to_string()[..super::films::SHORT_ID].to_owned(),
            };
            let left = row.until.map(|until| until.saturating_sub(now));
            vec![
                handle[..digits].to_owned(),
                film,
                plain(row.user),
                row.node.to_owned(),
                rough(now.saturating_sub(row.since)),
                left.map_or("-".to_owned(), rough),
                match row.any_host {
                    true => "anywhere".to_owned(),
                    false => row.from.to_string(),
                },
                row.players.to_string(),
            ]
        })
        .collect();
    let header = [
        "HANDLE", "FILM", "USER", "NODE", "AGE", "LEFT", "FOR", "PLAYERS",
    ];
    table(&header, &lines, 1, width)
}

/// A time in its largest unit: "3h" for three hours and some minutes.
fn rough(seconds: u64) -> String {
    let unit = [86_400, 3_600, 60, 1]
        .into_iter()
        .find(|unit| seconds >= *unit)
        .unwrap_or(1);
    Span::from_secs(seconds - seconds % unit).to_string()
}

/// A time since 1970, for people.
fn moment(since_1970: u64) -> String {
    let time = i64::try_from(since_1970)
        .ok()
        .and_then(|seconds| OffsetDateTime::from_unix_timestamp(seconds).ok());
    match time {
        Some(time) => format!(
            "{} {:02}:{:02} UTC",
            time.date(),
            time.hour(),
            time.minute()
        ),
        None => format!("{since_1970} s after 1970"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use iceflix_core::api::streaming::ListedStream;
    use iceflix_core::api::{Instance, Kind, SessionId};

    fn found(handle: u8) -> Found {
        Found {
            node: Instance {
                kind: Kind::Streaming,
                instance: "streaming-1".parse().unwrap(),
                endpoint: ([127, 0, 0, 1], 1).into(),
                pid: 1,
                load: 0,
                draining: false,
            },
            stream: ListedStream {
                handle: StreamHandle::from_bytes([handle; 16]),
                media: MediaId::from_bytes([1; 32]),
                user: "ada".into(),
                since: 1_800_000_000,
                until: Some(1_800_014_400),
                from: [127, 0, 0, 1].into(),
                any_host: true,
                players: 2,
                grant: Some(SessionId::from_bytes([2; 16])),
            },
        }
    }

    #[test]
    fn a_listed_stream_has_what_scripts_expect() {
        let names = BTreeMap::from([(MediaId::from_bytes([1; 32]), "Big Buck".to_owned())]);
        let found = found(0xab);
        let (handle, id) = ("ab".repeat(16), "01".repeat(32));
        assert_eq!(
            serde_json::to_string(&StreamRow::new(&found, &names)).unwrap(),
            format!(
                r#"{{"handle":"{handle}","id":"{id}","name":"Big Buck","user":"ada","node":"streaming-1","since":1800000000,"until":1800014400,"from":"127.0.0.1","any_host":true,"players":2,"granted":true}}"#
            )
        );
    }

    #[test]
    fn people_see_how_old_a_stream_is_and_what_is_left() {
        let (names, found) = (BTreeMap::new(), found(0xab));
        let rows = [StreamRow::new(&found, &names)];
        let text = describe(&rows, 1_800_000_000 + 3_700, None);
        let line = text.lines().nth(1).unwrap();
        let cells: Vec<&str> = line.split_whitespace().collect();
        let wanted = [
            "ababababab",
            "0101010101",
            "ada",
            "streaming-1",
            "1h",
            "2h",
            "anywhere",
            "2",
        ];
        assert_eq!(cells, wanted, "{text}");
        assert_eq!(moment(1_800_000_000), "2027-01-15 08:00 UTC");
    }

    #[test]
    fn the_beginning_of_a_handle_is_enough_when_it_is_one_streams_alone() {
        let streams = Streams {
            found: vec![found(0xab), found(0xac)],
            silent: Vec::new(),
        };
        let one = |beginning| the_one(&streams, beginning).map(|found| found.stream.handle);
        assert_eq!(one("ac").unwrap(), StreamHandle::from_bytes([0xac; 16]));
        let several = one("a").unwrap_err();
        assert_eq!(several.exit_code(), 3);
        assert!(several.to_string().contains(&"ab".repeat(16)), "{several}");
        assert_eq!(one("b").unwrap_err().exit_code(), 3);
        let silent = Streams {
            silent: vec!["streaming-2".into()],
            ..streams
        };
        let unknown = the_one(&silent, "b").unwrap_err();
        assert!(unknown.to_string().contains("streaming-2"), "{unknown}");
    }
}
