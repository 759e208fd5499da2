//! Signing requests with an AWS access key: Signature Version 4.

use crate::{
    forward::refusal::Refusal,
    forward::upstream::uri,
    policy::{ModelKey, ModelServer},
};
use aws_credential_types::Credentials;
use aws_sigv4::{
    http_request::{SignableBody, SignableRequest, SigningParams, SigningSettings, sign as sign_request},
    sign::v4,
};
use bytes::Bytes;
use http::{HeaderMap, HeaderName, HeaderValue};
use std::time::SystemTime;

/// The service's name in signatures.
const SERVICE: &str = "bedrock";

/// Adds what shows that the request is made with the server's access key. Another key is added later, as it is for
/// every server.
pub(super) fn sign(server: &ModelServer, path: &str, headers: &mut HeaderMap, body: &Bytes) -> Result<(), Refusal> {
    let Some(ModelKey::Aws(key)) = &server.key else { return Ok(()) };
    let unusable = || {
        let text = format!("the credentials of the model provider \"{}\" cannot sign: store them again", server.name);
        Refusal::bad_gateway("credential_unusable", text).permanent()
    };
    let token = key.session_token.as_ref().map(|token| token.expose().to_owned());
    let (id, secret) = (key.access_key_id.expose(), key.secret_access_key.expose());
    let identity = Credentials::new(id, secret, token, None, "hoistway").into();
    let params: SigningParams<'_> = v4::SigningParams::builder()
        .identity(&identity)
        .region(&key.region)
        .name(SERVICE)
        .time(SystemTime::now())
        .settings(SigningSettings::default())
        .build()
        .map_err(|_| unusable())?
        .into();
    let uri = uri(&server.origin, path).map_err(|_| unusable())?.to_string();
    let sent = headers.iter().filter_map(|(name, value)| Some((name.as_str(), value.to_str().ok()?)));
    let request = SignableRequest::new("POST", &uri, sent, SignableBody::Bytes(body)).map_err(|_| unusable())?;
    let (instructions, _) = sign_request(request, &params).map_err(|_| unusable())?.into_parts();
    let (added, _) = instructions.into_parts();
    for header in added {
        let mut value = HeaderValue::try_from(header.value()).map_err(|_| unusable())?;
        value.set_sensitive(true);
        headers.insert(HeaderName::from_static(header.name()), value);
    }
    Ok(())
}
