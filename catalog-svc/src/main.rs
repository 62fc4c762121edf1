//! The catalogue of an IceFlix cluster.

use catalog_svc::CatalogServer;
use std::process::ExitCode;

fn main() -> ExitCode {
    iceflix_core::service::run::<CatalogServer>()
}
