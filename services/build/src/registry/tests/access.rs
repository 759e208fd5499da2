//! Who may do what.

use super::*;
use base64::{Engine, engine::general_purpose::STANDARD};

fn basic(key: &str) -> String {
    format!("Basic {}", STANDARD.encode(format!("anybody:{key}")))
}

#[tokio::test]
async fn every_route_requires_a_key() {
    let r = Registry::start().await;
    r.push_image("a", "v1", "content").await;
    let (read, write) = ("/v2/a/manifests/v1", "/v2/a/blobs/uploads/");
    let bearer = format!("Bearer {KEY}");
    let (good, wrong) = (basic(KEY), basic("wrong"));
    for (method, path, headers, status) in [
        ("GET", read, &[][..], 401),
        ("HEAD", read, &[], 401),
        ("GET", "/v2/_catalog", &[], 401),
        ("GET", "/v2/a/tags/list", &[], 401),
        ("GET", "/v2/", &[], 401),
        ("GET", "/v2/token", &[], 401),
        ("GET", read, &[("authorization", &*bearer)], 200),
        ("GET", read, &[("authorization", &*good)], 200),
        ("GET", read, &[("authorization", &*wrong)], 401),
        ("GET", read, &[("authorization", "Bearer wrong")], 401),
        ("GET", read, &[("host", "registry.example:5000"), ("authorization", &*bearer)], 200),
        ("GET", read, &[("origin", "null"), ("authorization", &*bearer)], 403),
        ("POST", write, &[], 401),
        ("POST", write, &[("authorization", &*wrong)], 401),
        ("POST", write, &[("authorization", &*good)], 202),
        ("PUT", read, &[], 401),
        ("DELETE", read, &[], 401),
        ("GET", "/v2/a/blobs/uploads/0190a4a0-0000-7000-8000-000000000000", &[], 401),
        ("GET", "/v2/", &[("authorization", &*good)], 200),
        ("GET", "/v2", &[("authorization", &*bearer)], 200),
    ] {
        let answer = r.raw(method, path, headers, "").await;
        assert_eq!(answer.status, status, "{method} {path} {headers:?}");
        assert_eq!(answer.header("docker-distribution-api-version"), "registry/2.0");
        let challenge = if status == 401 { "Basic realm=\"hoistway\"" } else { "" };
        assert_eq!(answer.header("www-authenticate"), challenge, "{method} {path} {headers:?}");
    }
    let refused = r.raw("GET", read, &[], "").await;
    assert_eq!(refused.verdict(), (401, "UNAUTHORIZED".into()));
    assert!(refused.text().contains("log in with any user name and the key as password"), "{}", refused.text());
}
