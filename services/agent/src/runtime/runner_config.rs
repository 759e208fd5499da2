//! What every runner is told, whatever it runs in: its configuration and its environment.

use super::Instance;
use crate::launcher::protocol::STACK_SIGNAL;
use hoistway_model::{env::platform, framework::Framework};
use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::time::Duration;

/// The name of the agent's user.
const USER: &str = "agent";
/// Each is read by one client or another.
const CA_VARIABLES: [&str; 6] = [
    "SSL_CERT_FILE",
    "REQUESTS_CA_BUNDLE",
    "CURL_CA_BUNDLE",
    "NODE_EXTRA_CA_CERTS",
    "AWS_CA_BUNDLE",
    "GRPC_DEFAULT_SSL_ROOTS_FILE_PATH",
];

/// The runner's configuration, which is secret. `limit` is the time that the start may take.
pub(super) fn config(instance: &Instance, closed_network: bool, limit: Option<Duration>) -> Value {
    let mask: Vec<&str> = instance.mask.iter().map(|secret| secret.expose()).collect();
    json!({
        "token": instance.invoke_token.expose(),
        "mask": mask,
        "closed_network": closed_network,
        "stack_signal": STACK_SIGNAL.as_raw(),
        "start_seconds": limit.map(|limit| limit.as_secs_f64()),
        "framework": instance.framework.map(Framework::as_str),
    })
}

/// The places that an agent's environment names.
pub(super) struct Places {
    pub home: String,
    pub tmp: String,
    /// The search path of programs; none: that of the image.
    pub path: Option<String>,
    pub ca_bundle: Option<String>,
}

/// The environment of an agent: what the platform needs, and above that what the instance says.
pub(super) fn environment(instance: &Instance, places: &Places, port: u16) -> BTreeMap<String, String> {
    let mut env = base(places);
    env.extend(instance.env.iter().map(|(name, value)| (name.clone(), value.expose().to_owned())));
    env.insert(platform::PORT.to_owned(), port.to_string());
    env
}

/// What is the same for all agents.
pub(super) fn base(places: &Places) -> BTreeMap<String, String> {
    let mut env: BTreeMap<String, String> = [
        ("HOME", places.home.clone()),
        ("TMPDIR", places.tmp.clone()),
        ("LANG", "C.UTF-8".to_owned()),
        // Its number may have no name on this machine, and much software asks for one (`getpass.getuser`).
        ("LOGNAME", USER.to_owned()),
        ("USER", USER.to_owned()),
        ("PYTHONUNBUFFERED", "1".to_owned()),
        // Nobody would read it: the working directory is new at each start, and packages have theirs.
        ("PYTHONDONTWRITEBYTECODE", "1".to_owned()),
    ]
    .map(|(name, value)| (name.to_owned(), value))
    .into();
    env.extend(places.path.clone().map(|path| ("PATH".to_owned(), path)));
    if let Some(bundle) = &places.ca_bundle {
        env.extend(CA_VARIABLES.map(|name| (name.to_owned(), bundle.clone())));
    }
    env
}
