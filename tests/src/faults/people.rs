//! People, and what they know of the cluster.

use client_cli::{client::Client, config::Target, error::Error};
use std::path::PathBuf;

/// People at the fourth machine, and what they know of the cluster.
#[derive(Clone)]
pub struct People {
    /// Where they look for it.
    pub target: Target,
    /// Below it each has a home.
    pub dir: PathBuf,
}

impl People {
    /// What a command does first: a client of whoever's home has that name.
    ///
    /// # Errors
    /// When no Main answers.
    pub async fn client(&self, home: &str) -> Result<Client, Error> {
        Client::connect(&self.target, &self.dir.join(home)).await
    }
}
