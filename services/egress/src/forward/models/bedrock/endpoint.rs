//! Where Bedrock is and what it is shown: it is in a region, and signatures are made for that region.

use crate::policy::{AwsKey, ModelKey};
use hoistway_model::{
    Secret,
    egress::ModelProviderAccess,
    tool::{bedrock_region, is_aws_region},
};
use std::collections::BTreeMap;

/// The requests to a provider of kind bedrock.
#[derive(Debug)]
pub(in crate::forward::models) struct Endpoint {
    pub(in crate::forward::models) url: String,
    pub(in crate::forward::models) key: Option<ModelKey>,
}

/// Reads the endpoint and the credentials of a provider; why it cannot be called, after its name.
pub(in crate::forward::models) fn endpoint(access: &ModelProviderAccess) -> Result<Endpoint, &'static str> {
    let credentials = &access.credentials;
    let region = match credentials.get("region") {
        Some(region) => Some(region.expose().trim()),
        None => bedrock_region(&access.endpoint),
    };
    if region.is_some_and(|region| !is_aws_region(region)) {
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
