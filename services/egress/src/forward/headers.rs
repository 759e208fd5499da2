//! The headers that are passed on, and those that are not.

use http::{HeaderMap, HeaderName, HeaderValue, header};

/// The header in which the platform tells tools whom an agent works for.
pub(crate) const END_USER: HeaderName = HeaderName::from_static("x-end-user-id");
/// The header in which an agent's runner hands on what the gateway stated about that.
pub(crate) const INVOKE_STATEMENT: HeaderName = HeaderName::from_static(hoistway_kit::invoke_statement::HEADER);

/// The header that tells egress' own answers from those of tools: the reason, as it is in the record.
pub(crate) const ANSWERED_BY_EGRESS: HeaderName = HeaderName::from_static("x-hoistway-egress");

/// Headers of one connection (RFC 9110, 7.6.1), and those that only a proxy reads.
const HOP_BY_HOP: [HeaderName; 9] = [
    header::CONNECTION,
    HeaderName::from_static("keep-alive"),
    HeaderName::from_static("proxy-connection"),
    header::PROXY_AUTHENTICATE,
    header::PROXY_AUTHORIZATION,
    HeaderName::from_static("proxy-authentication-info"),
    header::TE,
    header::TRANSFER_ENCODING,
    header::UPGRADE,
];

/// Headers in which a proxy states the client of its own connection. An agent is no proxy, and a tool behind one may
/// take these for that proxy's.
const FORWARDED: [HeaderName; 9] = [
    header::FORWARDED,
    HeaderName::from_static("x-forwarded"),
    HeaderName::from_static("x-real-ip"),
    HeaderName::from_static("x-client-ip"),
    HeaderName::from_static("client-ip"),
    HeaderName::from_static("true-client-ip"),
    HeaderName::from_static("cf-connecting-ip"),
    HeaderName::from_static("x-cluster-client-ip"),
    HeaderName::from_static("x-original-forwarded-for"),
];
/// The beginning of further ones: `-For`, `-Host`, `-Proto`, `-Port`, `-Prefix`, `-Server` and others.
const X_FORWARDED: &str = "x-forwarded-";

/// Headers that some servers take for the method, the host or the path of a request, whatever its first lines say.
const OVERRIDES: [HeaderName; 11] = [
    HeaderName::from_static("x-http-method-override"),
    HeaderName::from_static("x-http-method"),
    HeaderName::from_static("x-method-override"),
    HeaderName::from_static("x-original-method"),
    HeaderName::from_static("x-original-url"),
    HeaderName::from_static("x-rewrite-url"),
    HeaderName::from_static("x-original-uri"),
    HeaderName::from_static("x-original-host"),
    HeaderName::from_static("x-host"),
    HeaderName::from_static("x-http-path-override"),
    HeaderName::from_static("x-envoy-original-path"),
];

fn remove_hop_by_hop(headers: &mut HeaderMap) {
    let named: Vec<HeaderName> = headers
        .get_all(header::CONNECTION)
        .iter()
        .filter_map(|value| value.to_str().ok())
        .flat_map(|value| value.split(','))
        .filter_map(|name| name.trim().parse().ok())
        .collect();
    for name in HOP_BY_HOP.iter().chain(&named) {
        headers.remove(name);
    }
}

/// Takes from a request what is not for the tool. The client of the next connection sets `Host` anew.
pub(crate) fn clean_request(headers: &mut HeaderMap) {
    // Trailers are requested with a header that is of one connection only, and gRPC insists on it.
    let trailers = headers.get_all(header::TE).iter().any(|te| te.as_bytes().eq_ignore_ascii_case(b"trailers"));
    remove_hop_by_hop(headers);
    for name in [header::HOST, header::EXPECT, header::MAX_FORWARDS] {
        headers.remove(name);
    }
    remove_forwarded(headers);
    if trailers {
        headers.insert(header::TE, HeaderValue::from_static("trailers"));
    }
}

/// Takes from a request's trailers what would mean something else if the tool took them for headers.
pub(crate) fn clean_trailers(trailers: &mut HeaderMap) {
    clean_request(trailers);
    remove_overrides(trailers);
    for name in [&END_USER, &INVOKE_STATEMENT] {
        remove_all_spellings(trailers, name);
    }
}

/// Removes what claims to come from a proxy in front of the tool, in every spelling.
fn remove_forwarded(headers: &mut HeaderMap) {
    let is_forwarded = |name: &HeaderName| {
        let name = name.as_str().replace('_', "-");
        name.starts_with(X_FORWARDED) || FORWARDED.iter().any(|known| known.as_str() == name)
    };
    let found: Vec<HeaderName> = headers.keys().filter(|name| is_forwarded(name)).cloned().collect();
    for name in found {
        headers.remove(name);
    }
}

/// Takes from a request whatever would give it another method or path at the tool than the ones that were allowed.
pub(crate) fn remove_overrides(headers: &mut HeaderMap) {
    for name in &OVERRIDES {
        remove_all_spellings(headers, name);
    }
}

/// Takes from a response what is not for the agent: `Alt-Svc` would send it to another address.
pub(crate) fn clean_response(headers: &mut HeaderMap) {
    remove_hop_by_hop(headers);
    headers.remove(header::ALT_SVC);
    headers.remove(ANSWERED_BY_EGRESS);
}

/// Removes a header in every spelling that a server may take for it: some read `_` as `-`.
pub(crate) fn remove_all_spellings(headers: &mut HeaderMap, name: &HeaderName) {
    let plain = |name: &HeaderName| name.as_str().replace('_', "-");
    let wanted = plain(name);
    let found: Vec<HeaderName> = headers.keys().filter(|&key| plain(key) == wanted).cloned().collect();
    for name in found {
        headers.remove(name);
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    fn map(pairs: &[(&str, &str)]) -> HeaderMap {
        pairs.iter().map(|(n, v)| (n.parse::<HeaderName>().unwrap(), v.parse::<HeaderValue>().unwrap())).collect()
    }

    fn names(headers: &HeaderMap) -> Vec<&str> {
        headers.keys().map(HeaderName::as_str).collect()
    }

    #[test]
    fn trailers_say_nothing_that_headers_may_not() {
        let mut trailers = map(&[
            ("x-checksum", "1"),
            ("X-End-User-ID", "bob"),
            ("x_end_user_id", "bob"),
            ("x-forwarded-for", "127.0.0.1"),
            ("X_Original_URL", "/admin"),
            ("host", "a"),
            ("grpc-status", "0"),
        ]);
        clean_trailers(&mut trailers);
        assert_eq!(names(&trailers), ["x-checksum", "grpc-status"]);
    }

    #[test]
    fn headers_of_one_connection_stay_there() {
        let mut headers = map(&[
            ("connection", "close, X-Secret"),
            ("connection", "te"),
            ("x-secret", "1"),
            ("keep-alive", "5"),
            ("proxy-authorization", "Basic x"),
            ("proxy-connection", "keep-alive"),
            ("te", "trailers"),
            ("transfer-encoding", "chunked"),
            ("upgrade", "websocket"),
            ("expect", "100-continue"),
            ("host", "a"),
            ("accept", "*/*"),
        ]);
        clean_request(&mut headers);
        let mut left = names(&headers);
        left.sort_unstable();
        assert_eq!(left, ["accept", "te"]);
        let mut headers = map(&[("alt-svc", "h3"), ("te", "gzip"), ("x-hoistway-egress", "x"), ("date", "now")]);
        clean_response(&mut headers);
        assert_eq!(names(&headers), ["date"]);
    }

    #[test]
    fn an_agent_does_not_speak_for_a_proxy_in_front_of_its_tool() {
        let mut headers = map(&[
            ("forwarded", "for=127.0.0.1"),
            ("x-forwarded-for", "127.0.0.1"),
            ("X-Forwarded-Host", "internal"),
            ("x_forwarded_proto", "https"),
            ("x-forwarded-client-cert", "Subject=admin"),
            ("x-real-ip", "127.0.0.1"),
            ("x-real_ip", "127.0.0.1"),
            ("x-forward", "a"),
            ("via", "1.1 agent"),
        ]);
        clean_request(&mut headers);
        let mut left = names(&headers);
        left.sort_unstable();
        assert_eq!(left, ["via", "x-forward"]);
    }

    #[test]
    fn spellings_that_servers_confuse_go_together() {
        let mut headers =
            map(&[("x-end-user-id", "a"), ("x_end_user_id", "b"), ("x-end_user-id", "c"), ("x-end", "d")]);
        remove_all_spellings(&mut headers, &END_USER);
        assert_eq!(names(&headers), ["x-end"]);
    }
}
