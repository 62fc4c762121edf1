//! The command line: every command, defined once for the shell and for the prompt.

mod sessions;
mod streams;

pub use sessions::{RoleName, Session, TypedSession};
pub use streams::{StreamCommand, Url};

use crate::address::parse_main;
use clap::{Args, CommandFactory, FromArgMatches, Parser, Subcommand};
use iceflix_core::api::Fingerprint;
use std::path::PathBuf;

const AFTER_HELP: &str = "\
Without a command, iceflix opens a prompt that has the same commands and a few more.

The cluster is found by --config FILE, $ICEFLIX_CONFIG, ./.iceflix/client.toml or
$XDG_CONFIG_HOME/iceflix/client.toml; --main HOST:PORT with --ca needs none of them.

Exit codes: 0 done, 1 failed, 2 wrong usage, 3 not found, 4 not authorised, 5 nothing available.";

/// The terminal client of IceFlix: find films, name and tag them, watch them.
#[derive(Debug, Parser)]
#[command(name = "iceflix", version, after_help = AFTER_HELP)]
pub struct Cli {
    /// Options of all commands.
    #[command(flatten)]
    pub global: Global,
    /// What to do; nothing opens the prompt.
    #[command(subcommand)]
    pub command: Option<Top>,
}

/// Options of all commands, before or after the command's name.
#[derive(Debug, Clone, Default, Args)]
pub struct Global {
    /// Read this file to find the cluster
    #[arg(long, global = true, value_name = "FILE")]
    pub config: Option<PathBuf>,
    /// A Main of the cluster; may be given more than once
    #[arg(long, global = true, value_name = "HOST:PORT", value_parser = parse_main)]
    pub main: Vec<String>,
    /// What the cluster is known by: its authority's fingerprint
    #[arg(long, global = true, value_name = "FINGERPRINT")]
    pub ca: Option<Fingerprint>,
    /// Print one JSON document to standard output
    #[arg(long, global = true)]
    pub json: bool,
    /// Say more on standard error (-vv: even more); RUST_LOG refines it
    #[arg(short, long, global = true, action = clap::ArgAction::Count)]
    pub verbose: u8,
}

/// A command of the shell.
#[derive(Debug, Subcommand)]
pub enum Top {
    /// One that the prompt has too.
    #[command(flatten)]
    Client(Command),
    /// Run a whole cluster on this machine
    #[command(subcommand)]
    Cluster(Box<crate::cluster::ClusterCommand>),
}

/// The commands that the shell and the prompt share.
#[derive(Debug, Clone, PartialEq, Eq, Subcommand)]
pub enum Command {
    /// Show the live instances of every kind
    Status,
    /// Log in; the session is kept, so that later commands need no password
    Login {
        /// Who you are; asked for when not given ("admin" with --password-stdin)
        user: Option<String>,
        /// Read the password from the first line of standard input
        #[arg(long)]
        password_stdin: bool,
    },
    /// End the session
    Logout,
    /// Find films by name and tags; everything when nothing is asked for
    Search(Search),
    /// Show one film
    Show {
        #[command(flatten)]
        #[allow(missing_docs)]
        film: Film,
    },
    /// Play a film in a player that can do RTSP
    Play {
        #[command(flatten)]
        #[allow(missing_docs)]
        film: Film,
        /// Use this player: a name (mpv, vlc, ffplay, gst-play-1.0, ...) or a path
        #[arg(long, value_name = "NAME")]
        player: Option<String>,
    },
    /// Authorise a stream, print its RTSP URL and keep it alive until interrupted
    Url(Url),
    /// Show and stop streams: your own, or as an admin everybody's
    #[command(subcommand)]
    Stream(StreamCommand),
    /// Print the session description (SDP) of a film's stream
    Sdp {
        #[command(flatten)]
        #[allow(missing_docs)]
        film: Film,
    },
    /// Add or remove tags of yours
    #[command(subcommand)]
    Tag(Tag),
    /// Name a film (admins)
    Rename {
        /// The film and its new name
        #[arg(required = true, num_args = 2.., value_names = ["ID", "NAME"])]
        words: Vec<String>,
    },
    /// See and end your sessions
    #[command(subcommand)]
    Session(Session),
    /// Manage users (admins; your own password is yours to change)
    #[command(subcommand)]
    User(User),
    /// End all sessions of a user (admins)
    Revoke {
        /// Whose
        user: String,
    },
}

/// Which film.
#[derive(Debug, Clone, Default, PartialEq, Eq, Args)]
pub struct Film {
    /// The film's id, or any part of its beginning that no other id shares
    #[arg(required = true)]
    pub id: Option<String>,
}

/// What to search for.
#[derive(Debug, Clone, Default, PartialEq, Eq, Args)]
pub struct Search {
    /// A part of the name; case and accents do not matter
    pub text: Vec<String>,
    /// TEXT is the whole name
    #[arg(long)]
    pub exact: bool,
    /// Only films that you tagged so; may be given more than once
    #[arg(long = "tag", value_name = "T")]
    pub tags: Vec<String>,
    /// Films must have all of the tags, not just any
    #[arg(long)]
    pub all_tags: bool,
    /// Show at most so many films
    #[arg(long, value_name = "N", value_parser = parse_limit)]
    pub limit: Option<u32>,
}

fn parse_limit(text: &str) -> Result<u32, String> {
    match text.parse() {
        Ok(limit @ 1..) => Ok(limit),
        _ => Err(format!("a limit is a whole number from 1 to {}", u32::MAX)),
    }
}

/// Changes to your tags.
#[derive(Debug, Clone, PartialEq, Eq, Subcommand)]
pub enum Tag {
    /// Tag a film
    Add(TagWords),
    /// Take tags off a film; one that is not there is no error
    Remove(TagWords),
}

/// A film and tags.
#[derive(Debug, Clone, PartialEq, Eq, Args)]
pub struct TagWords {
    /// The film, then the tags
    #[arg(required = true, num_args = 2.., value_names = ["ID", "TAG"])]
    pub words: Vec<String>,
}

/// What admins do about users.
#[derive(Debug, Clone, PartialEq, Eq, Subcommand)]
pub enum User {
    /// Add a user
    Add {
        /// The new user's name
        name: String,
        /// Make them an admin
        #[arg(long)]
        admin: bool,
        /// Read the password from the first line of standard input
        #[arg(long)]
        password_stdin: bool,
    },
    /// Remove a user and end their sessions
    Remove {
        /// Whom
        name: String,
    },
    /// Keep a user from logging in and end their sessions; all they have stays
    Disable {
        /// Whom
        name: String,
    },
    /// Let a disabled user log in again
    Enable {
        /// Whom
        name: String,
    },
    /// Make a user an admin, or an admin a user; their sessions end
    Role {
        /// Whom
        name: String,
        /// What they are to be
        role: RoleName,
    },
    /// List the users
    List,
    /// Change a password: anyone their own, an admin everyone's
    Passwd {
        /// Whose; your own when not given
        name: Option<String>,
        /// Read the new password from the first line of standard input; for your own, the first
        /// line is the old one and the second the new one
        #[arg(long)]
        password_stdin: bool,
    },
}

/// A line typed at the prompt.
#[derive(Debug, Parser)]
#[command(
    name = "iceflix",
    no_binary_name = true,
    disable_version_flag = true,
    help_template = "{subcommands}{after-help}"
)]
pub struct Line {
    /// Print one JSON document to standard output
    #[arg(long, global = true)]
    pub json: bool,
    /// What to do.
    #[command(subcommand)]
    pub command: Typed,
}

/// A command of the prompt.
#[derive(Debug, Subcommand)]
pub enum Typed {
    /// One that the shell has too.
    #[command(flatten)]
    Client(Command),
    /// Turn to the cluster of another Main
    Connect {
        /// Where it is
        #[arg(value_name = "HOST:PORT", value_parser = parse_main)]
        main: String,
    },
    /// Choose a film: commands without an ID are then about it
    Select {
        #[command(flatten)]
        #[allow(missing_docs)]
        film: Film,
    },
    /// Forget the chosen film
    Deselect,
    /// Stop the stream that `url` or `play` began
    Stop,
    /// Leave
    #[command(visible_alias = "quit")]
    Exit,
}

/// The prompt's commands. A film need not be named there, since one may have been selected.
pub fn line_command() -> clap::Command {
    let optional = |command: clap::Command| command.mut_arg("id", |id| id.required(false));
    let words = |command: clap::Command| command.mut_arg("words", |w| w.num_args(1..));
    let rename = |command: clap::Command| command.mut_arg("words", |w| w.num_args(1..));
    Line::command()
        .mut_subcommand("show", optional)
        .mut_subcommand("play", optional)
        .mut_subcommand("url", optional)
        .mut_subcommand("sdp", optional)
        .mut_subcommand("rename", rename)
        .mut_subcommand("tag", |tag| {
            tag.mut_subcommand("add", words)
                .mut_subcommand("remove", words)
        })
        .after_help(
            "An ID may be a number of the last result list, or be left out once a film is selected.",
        )
}

/// Understands the words of a line.
pub fn parse_line(words: &[String]) -> Result<Line, clap::Error> {
    let matches = line_command().try_get_matches_from(words)?;
    Line::from_arg_matches(&matches)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shell(words: &[&str]) -> Result<Cli, clap::Error> {
        Cli::try_parse_from([&["iceflix"], words].concat())
    }

    fn typed(line: &[&str]) -> Result<Line, clap::Error> {
        let words: Vec<String> = line.iter().map(|word| (*word).to_owned()).collect();
        parse_line(&words)
    }

    #[test]
    fn the_definitions_hold() {
        Cli::command().debug_assert();
        line_command().debug_assert();
    }

    #[test]
    fn options_of_all_commands_go_before_or_after() {
        for words in [["--json", "status"], ["status", "--json"]] {
            assert!(shell(&words).unwrap().global.json, "{words:?}");
        }
        let cli = shell(&["search", "--main", "a:1", "x", "--main", "b:2"]).unwrap();
        assert_eq!(cli.global.main, ["a:1", "b:2"]);
        let cli = shell(&["--main", "a:1", "user", "list", "--json"]).unwrap();
        assert_eq!((cli.global.main.len(), cli.global.json), (1, true));
        assert!(typed(&["--json", "status"]).unwrap().json);
        assert!(typed(&["status", "--json"]).unwrap().json);
    }

    #[test]
    fn the_shell_wants_ids() {
        for words in [
            &["show"][..],
            &["play"],
            &["url"],
            &["sdp"],
            &["tag", "add", "ab"],
            &["tag", "remove", "ab"],
            &["rename", "ab"],
            &["user"],
            &["user", "add"],
            &["revoke"],
            &["tag"],
            &["url", "ab", "--for", "0s"],
            &["url", "ab", "--for", "4"],
            &["stream"],
            &["stream", "stop"],
            &["stream", "stop", "xyz"],
            &["search", "--limit", "0"],
            &["search", "--limit", "x"],
            &["--main", "nowhere", "status"],
            &["nonsense"],
        ] {
            assert_eq!(shell(words).unwrap_err().exit_code(), 2, "{words:?}");
        }
    }

    #[test]
    fn the_prompt_does_not() {
        for line in [
            &["show"][..],
            &["play", "--player", "mpv"],
            &["url"],
            &["url", "--for", "4h"],
            &["stream", "list"],
            &["sdp"],
            &["tag", "add", "drama"],
            &["rename", "New name"],
            &["select", "2"],
            &["deselect"],
            &["stop"],
            &["exit"],
            &["quit"],
            &["connect", "localhost:1"],
        ] {
            assert!(typed(line).is_ok(), "{line:?}");
        }
        assert!(typed(&["select"]).is_err());
        assert!(typed(&["connect", "localhost"]).is_err());
    }

    #[test]
    fn a_search_is_read_whole() {
        let Some(Top::Client(Command::Search(search))) = shell(&[
            "search",
            "big",
            "buck",
            "--tag",
            "a",
            "--tag",
            "b",
            "--all-tags",
            "--limit",
            "3",
            "--exact",
        ])
        .unwrap()
        .command
        else {
            panic!("not a search");
        };
        assert_eq!(search.text.join(" "), "big buck");
        assert_eq!(search.tags, ["a", "b"]);
        assert!(search.all_tags && search.exact);
        assert_eq!(search.limit, Some(3));
    }
}
