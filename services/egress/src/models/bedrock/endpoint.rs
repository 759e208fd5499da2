//! Where Bedrock is and what it is shown: it is in a region, and signatures are made for that region.

use crate::policy::{AwsKey, ModelKey};
use hoistway_model::{Secret, egress::ModelProviderAccess};
use std::collections::BTreeMap;

/// The longest name of a region.
const MAX_REGION: usize = 32;

/// How a provider of kind bedrock is called.
#[derive(Debug)]
pub(in crate::models) struct Endpoint {
    pub(in crate::models) url: String,
    pub(in crate::models) key: Option<ModelKey>,
}

/// Reads the endpoint and the credentials of a provider; why it cannot be called, after its name.
pub(in crate::models) fn endpoint(access: &ModelProviderAccess) -> Result<Endpoint, &'static str> {
    let credentials = &access.credentials;
    let region = match credentials.get("region") {
        Some(region) => Some(region.expose().trim()),
        None => region_of(&access.endpoint),
    };
    if region.is_some_and(|region| !is_region(region)) {
        return Err("has a region that is none: store credentials with one such as us-east-1");
    }
    let url = match (access.endpoint.as_str(), region) {
        ("", Some(region)) => format!("https://bedrock-runtime.{region}.amazonaws.com"),
        ("", None) => return Err("has no region: store credentials with \"region\", or set an endpoint that has one"),
        (endpoint, _) => endpoint.to_owned(),
    };
    let key = match (credentials.get("api_key"), aws_key(credentials, region)) {
        (Some(key), _) => Some(ModelKey::ApiKey(key.clone())),
        (None, Some(key)) => Some(ModelKey::Aws(key)),
        (None, None) if credentials.contains_key("access_key_id") => {
            return Err("has an access key and no region to sign for: store credentials with \"region\"");
        }
        (None, None) => None,
    };
    Ok(Endpoint { url, key })
}

fn aws_key(credentials: &BTreeMap<String, Secret>, region: Option<&str>) -> Option<AwsKey> {
    Some(AwsKey {
        access_key_id: credentials.get("access_key_id")?.clone(),
        secret_access_key: credentials.get("secret_access_key")?.clone(),
        session_token: credentials.get("session_token").cloned(),
        region: region?.to_owned(),
    })
}

/// The region in the host of one of the service's own endpoints, those in private networks included.
fn region_of(endpoint: &str) -> Option<&str> {
    let host = endpoint.split_once("://")?.1.split(['/', ':']).next()?;
    let mut labels = host.split('.').skip_while(|label| !label.starts_with("bedrock-runtime"));
    labels.next()?;
    let region = labels.next()?;
    labels.any(|label| label == "amazonaws").then_some(region)
}

fn is_region(text: &str) -> bool {
    let fits = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '-';
    !text.is_empty() && text.len() <= MAX_REGION && text.chars().all(fits)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_region_stands_in_the_endpoints_of_the_service() {
        let found = |endpoint| region_of(endpoint);
        assert_eq!(found("https://bedrock-runtime.eu-west-1.amazonaws.com"), Some("eu-west-1"));
        assert_eq!(found("https://bedrock-runtime-fips.us-east-1.amazonaws.com:443/x"), Some("us-east-1"));
        assert_eq!(found("https://vpce-1.bedrock-runtime.us-west-2.vpce.amazonaws.com"), Some("us-west-2"));
        assert_eq!(found("https://bedrock-runtime.example.com"), None);
        assert_eq!(found("https://proxy.example"), None);
        assert_eq!(found(""), None);
    }
}
