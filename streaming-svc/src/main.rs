//! `iceflix-streaming`: a node's films, and their delivery over RTSP.

use std::process::ExitCode;

fn main() -> ExitCode {
    // The process in which strangers' files are looked at is this program, too.
    if std::env::args_os()
        .nth(1)
        .is_some_and(|arg| arg == "probe-worker")
    {
        return streaming_svc::probe::worker_main();
    }
    streaming_svc::run()
}
