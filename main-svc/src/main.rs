//! `iceflix-main`: hands out live instances of the other services.

use std::process::ExitCode;

fn main() -> ExitCode {
    iceflix_core::service::run::<main_svc::MainServer>()
}
