//! Calls from web pages of other origins (CORS, the Fetch standard): none unless the operator names their origins.

use super::{auth::KEY_HEADER, deploy::DEPLOYMENT, end_user::TOKEN_HEADER};
use axum::{extract::Request, middleware::Next, response::Response};
use hoistway_kit::telemetry::REQUEST_ID;
use hoistway_model::{Error, Result};
use http::{HeaderName, HeaderValue, Method, StatusCode, header};
use std::time::Duration;
use tower_http::cors::{AllowOrigin, CorsLayer};
use url::Url;

/// The time for which a browser may cache the answer to a preflight.
const MAX_AGE: Duration = Duration::from_secs(600);

/// Returns the layer that answers preflights and marks answers for the origins in the setting `allowed_origins`, where
/// `*` stands for every origin; `None` when there are no origins. The API does not use cookies, so none are allowed.
pub fn layer(allowed_origins: &[String]) -> Result<Option<CorsLayer>> {
    if allowed_origins.is_empty() {
        return Ok(None);
    }
    let origins: Vec<HeaderValue> = allowed_origins
        .iter()
        .enumerate()
        .filter(|(_, origin)| *origin != "*")
        .map(|(i, origin)| parse(origin).map_err(|text| Error::field(format!("allowed_origins[{i}]"), text)))
        .collect::<Result<_>>()?;
    let allowed = match allowed_origins.iter().any(|origin| origin == "*") {
        true => AllowOrigin::any(),
        false => AllowOrigin::list(origins),
    };
    let sent = [
        header::AUTHORIZATION,
        header::CONTENT_TYPE,
        header::ACCEPT,
        HeaderName::from_static("last-event-id"),
        HeaderName::from_static(KEY_HEADER),
        HeaderName::from_static(TOKEN_HEADER),
        HeaderName::from_static(REQUEST_ID),
    ];
    let exposed = [
        header::LOCATION,
        header::LINK,
        header::RETRY_AFTER,
        header::WWW_AUTHENTICATE,
        DEPLOYMENT,
        HeaderName::from_static(REQUEST_ID),
    ];
    let methods = [Method::GET, Method::HEAD, Method::POST, Method::PUT, Method::PATCH, Method::DELETE];
    let layer =
        CorsLayer::new().allow_origin(allowed).allow_methods(methods).allow_headers(sent).expose_headers(exposed);
    Ok(Some(layer.max_age(MAX_AGE)))
}

/// Parses an origin as browsers send it: scheme, host and a port that is not the scheme's default.
fn parse(origin: &str) -> Result<HeaderValue, String> {
    let url = Url::parse(origin).ok().filter(|url| matches!(url.scheme(), "http" | "https"));
    let normalised = url.map(|url| url.origin().ascii_serialization());
    match normalised {
        Some(normalised) if normalised == origin => {
            HeaderValue::from_str(origin).map_err(|_| format!("\"{origin}\" is not an origin"))
        }
        Some(normalised) => Err(format!("\"{origin}\" is not an origin; \"{normalised}\" is")),
        None => Err(format!("\"{origin}\" is not an origin, such as https://app.example.com")),
    }
}

/// Answers a preflight with 204: it has no body.
pub async fn no_content(request: Request, next: Next) -> Response {
    let asks =
        request.method() == Method::OPTIONS && request.headers().contains_key(header::ACCESS_CONTROL_REQUEST_METHOD);
    let mut response = next.run(request).await;
    if asks && response.status() == StatusCode::OK {
        *response.status_mut() = StatusCode::NO_CONTENT;
    }
    response
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn origins_are_written_as_browsers_send_them() {
        for good in ["https://app.example.com", "http://localhost:3000", "https://[::1]:8443"] {
            assert_eq!(parse(good).unwrap(), good);
        }
        let text = "\"https://App.example.com:443/\" is not an origin; \"https://app.example.com\" is";
        assert_eq!(parse("https://App.example.com:443/").unwrap_err(), text);
        for bad in ["", "app.example.com", "ftp://a.example", "null", "https://", "https://a.example\n"] {
            assert!(parse(bad).is_err(), "{bad}");
        }
        assert_eq!(
            layer(&["*".into(), "x".into()]).unwrap_err().to_string().split(':').next(),
            Some("allowed_origins[1]")
        );
    }
}
