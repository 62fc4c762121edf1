//! What is said about streams on the command line.

use super::Film;
use clap::{Args, Subcommand};
use iceflix_core::span::Span;

/// How many hexadecimal digits a stream's handle has.
const HANDLE_DIGITS: usize = 32;

/// Which stream to make.
#[derive(Debug, Clone, Default, PartialEq, Eq, Args)]
pub struct Url {
    #[command(flatten)]
    #[allow(missing_docs)]
    pub film: Film,
    /// Players on other machines may use it too, not only those on this one
    #[arg(long)]
    pub any_host: bool,
    /// Grant it for so long (30m, 4h; the cluster sets a limit) and return at once: for a
    /// television or a phone. It goes on after a logout, and any machine may use it, as with
    /// --any-host
    #[arg(long = "for", value_name = "TIME", value_parser = parse_span)]
    pub lasting: Option<Span>,
}

/// What is done about streams.
#[derive(Debug, Clone, PartialEq, Eq, Subcommand)]
pub enum StreamCommand {
    /// List the streams there are
    List,
    /// Stop a stream, and end the grant it may play by
    Stop {
        /// The stream's handle as `stream list` shows it, or its beginning
        #[arg(value_parser = parse_handle)]
        handle: String,
    },
}

fn parse_span(text: &str) -> Result<Span, String> {
    match text.parse::<Span>() {
        Ok(span) if span.as_secs() > 0 => Ok(span),
        Ok(_) => Err("it would be over at once; give at least 1s".into()),
        Err(error) => Err(error.to_string()),
    }
}

/// Handles are shown in lower case.
fn parse_handle(text: &str) -> Result<String, String> {
    let digits = (1..=HANDLE_DIGITS).contains(&text.len());
    match digits && text.bytes().all(|digit| digit.is_ascii_hexdigit()) {
        true => Ok(text.to_ascii_lowercase()),
        false => Err(format!(
            "a handle is up to {HANDLE_DIGITS} hexadecimal digits, as `stream list` shows them"
        )),
    }
}
