//! The labels by which an installation knows its own containers.

use crate::runtime::Instance;
use bollard::query_parameters::EventsOptions;
use std::collections::HashMap;

const INSTALLATION: &str = "dev.hoistway.installation";
const AGENT: &str = "dev.hoistway.agent";
const REVISION: &str = "dev.hoistway.revision";
const RUN: &str = "dev.hoistway.run";

/// The labels of one installation.
#[derive(Debug, Clone)]
pub(super) struct Labels {
    installation: String,
}

impl Labels {
    /// Those of the installation with this id.
    pub fn new(installation: String) -> Self {
        Self { installation }
    }

    /// The id.
    pub fn installation(&self) -> &str {
        &self.installation
    }

    /// The labels of a run's containers.
    pub fn of(&self, instance: &Instance, run: &str) -> HashMap<String, String> {
        let revision = instance.revision.to_string();
        let labels = [
            (INSTALLATION, self.installation.as_str()),
            (AGENT, instance.agent.as_str()),
            (REVISION, revision.as_str()),
            (RUN, run),
        ];
        labels.map(|(name, value)| (name.to_owned(), value.to_owned())).into()
    }

    /// The run that a container with these labels belongs to.
    pub fn run(labels: &HashMap<String, String>) -> String {
        labels.get(RUN).cloned().unwrap_or_default()
    }

    /// Selects the installation's containers, and nothing that it has not made.
    pub fn filter(&self) -> HashMap<String, Vec<String>> {
        [("label".to_owned(), vec![format!("{INSTALLATION}={}", self.installation)])].into()
    }

    /// Selects the events of those containers.
    pub fn events(&self) -> EventsOptions {
        EventsOptions { filters: Some(self.filter()), ..EventsOptions::default() }
    }
}
