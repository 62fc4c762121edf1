//! `iceflix-auth`: users, sessions and tokens.

use std::process::ExitCode;

fn main() -> ExitCode {
    iceflix_core::service::run::<auth_svc::AuthServer>()
}
