//! Verifies that the server is this user's own installation before its key is sent: while no `hoistway up` listens on
//! the port, another program may.

use super::{Failure, Outcome};
use hoistway_kit::installation_identity::{self, InstallationKey};
use hoistway_model::Secret;
use reqwest::{Client, StatusCode};
use serde::Deserialize;
use std::net::SocketAddr;
use url::Url;

#[derive(Deserialize)]
struct Answer {
    proof: String,
}

/// Returns the address of the installation with this key at `base`; `unreachable` describes a failed connection.
pub async fn verify(
    http: &Client,
    base: &Url,
    key: &Secret,
    unreachable: impl FnOnce(&reqwest::Error) -> Failure,
) -> Outcome<SocketAddr> {
    let nonce = installation_identity::nonce().map_err(|e| Failure::new(e.message))?;
    let mut url = base.clone();
    url.set_path(installation_identity::PATH);
    url.query_pairs_mut().append_pair("nonce", &nonce);
    let answer = http.get(url.clone()).send().await.map_err(|e| unreachable(&e))?;
    // An answer after a redirect proves nothing about the address that redirected.
    let at = answer.remote_addr().filter(|_| *answer.url() == url && answer.status() == StatusCode::OK);
    let proof = match at {
        Some(_) => answer.json::<Answer>().await.ok().map(|answer| answer.proof),
        None => None,
    };
    match (at, proof) {
        (Some(at), Some(proof)) if InstallationKey::of(key.expose()).verify(&nonce, at, &proof) => Ok(at),
        _ => Err(Failure::new(format!(
            "what listens at {base} is not this user's Hoistway: its API key is not sent there"
        ))
        .remedy(
            "start it with `hoistway up`, after ending what has its port; or name the key of what is there with \
                 --api-key-file or RUNAGENTS_API_KEY",
        )),
    }
}
