//! What a catalogue is told: nothing but what every service is.

use iceflix_core::{
    api::Kind,
    config::{Common, Key, ServiceConfig},
};
use serde::Deserialize;

/// A catalogue's configuration.
#[derive(Debug, Clone, Default, Deserialize)]
pub struct Config {
    /// What every service is told.
    #[serde(flatten)]
    pub common: Common,
}

impl ServiceConfig for Config {
    const KIND: Kind = Kind::Catalog;
    const KEYS: &'static [Key] = &[];

    fn common(&self) -> &Common {
        &self.common
    }
}
