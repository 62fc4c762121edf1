//! The worker's side.

use super::{Answer, Request, inspect};
use nix::sys::{
    prctl,
    resource::{Resource, UsageWho, getrlimit, getrusage, setrlimit},
    signal::Signal,
};
use std::{
    ffi::OsString,
    io::{self, BufRead as _, Read as _, Write as _},
    os::unix::ffi::OsStringExt as _,
    path::Path,
    process::ExitCode,
};

/// The most memory the worker may map, in bytes. GStreamer with its plugins maps some 300 MB.
const MEMORY: u64 = 2 << 30;

/// The most processor time one file may take, in seconds. Usual are hundredths.
const PROCESSOR: u64 = 20;

/// The longest request, in bytes: a path of 4096 bytes takes 8 KiB in hexadecimal.
const LONGEST: u64 = 64 << 10;

/// The worker's `main`: answers each request line on stdin with a line on stdout, until stdin ends.
pub fn worker_main() -> ExitCode {
    match serve() {
        Ok(()) => ExitCode::SUCCESS,
        Err(e) => {
            eprintln!("the probe worker ends: {e}");
            ExitCode::FAILURE
        }
    }
}

fn serve() -> io::Result<()> {
    // Reading a hostile file must not outlive the node, nor leave a core file.
    prctl::set_pdeathsig(Signal::SIGKILL)?;
    limit(Resource::RLIMIT_CORE, 0)?;
    // Before the memory's limit: it may start a helper that looks at all plugins.
    gst::init().map_err(io::Error::other)?;
    limit(Resource::RLIMIT_AS, MEMORY)?;

    let mut input = io::stdin().lock();
    loop {
        let mut line = String::new();
        if (&mut input).take(LONGEST).read_line(&mut line)? == 0 {
            return Ok(());
        }
        limit(Resource::RLIMIT_CPU, used()? + PROCESSOR)?;
        let answer = match asked(&line) {
            Some(path) => match inspect(Path::new(&path)) {
                Ok(facts) => Answer::Facts(facts),
                Err(e) => Answer::Failed(e.to_string()),
            },
            None => Answer::Failed("the request could not be read".to_owned()),
        };
        let mut line = serde_json::to_vec(&answer)?;
        line.push(b'\n');
        let mut output = io::stdout().lock();
        output.write_all(&line)?;
        output.flush()?;
    }
}

fn asked(line: &str) -> Option<OsString> {
    let request: Request = serde_json::from_str(line).ok()?;
    hex::decode(request.path).ok().map(OsString::from_vec)
}

/// Lowers a limit of this process. What is allowed at most stays, so that it can be raised again.
fn limit(what: Resource, value: u64) -> io::Result<()> {
    let (_, most) = getrlimit(what)?;
    setrlimit(what, value.min(most), most)?;
    Ok(())
}

/// The processor time this process has used, in whole seconds, rounded up.
fn used() -> io::Result<u64> {
    let usage = getrusage(UsageWho::RUSAGE_SELF)?;
    let whole = usage.user_time().tv_sec() + usage.system_time().tv_sec();
    Ok(u64::try_from(whole).unwrap_or(0) + 2)
}
