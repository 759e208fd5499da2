//! Who may do what.

use super::*;
use base64::{Engine, engine::general_purpose::STANDARD};

fn basic(key: &str) -> String {
    format!("Basic {}", STANDARD.encode(format!("anybody:{key}")))
}

#[tokio::test]
async fn reading_is_free_on_this_machine_and_writing_is_not() {
    let r = Registry::start().await;
    r.push_image("a", "v1", "content").await;
    let (read, write) = ("/v2/a/manifests/v1", "/v2/a/blobs/uploads/");
    let bearer = format!("Bearer {KEY}");
    let (good, wrong) = (basic(KEY), basic("wrong"));
    for (method, path, headers, status) in [
        ("GET", read, &[][..], 200),
        ("HEAD", read, &[], 200),
        ("GET", read, &[("authorization", &*bearer)], 200),
        ("GET", read, &[("authorization", &*good)], 200),
        ("GET", read, &[("authorization", &*wrong)], 401),
        ("GET", read, &[("authorization", "Bearer wrong")], 401),
        ("GET", read, &[("host", "registry.example:5000")], 401),
        ("GET", read, &[("host", "registry.example:5000"), ("authorization", &*bearer)], 200),
        ("GET", read, &[("x-forwarded-for", "127.0.0.1")], 401),
        ("GET", read, &[("forwarded", "for=127.0.0.1")], 401),
        ("GET", read, &[("origin", "http://127.0.0.1")], 403),
        ("GET", read, &[("origin", "null"), ("authorization", &*bearer)], 403),
        ("POST", write, &[], 401),
        ("POST", write, &[("authorization", &*wrong)], 401),
        ("POST", write, &[("x-forwarded-for", "127.0.0.1"), ("authorization", &*good)], 202),
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
        assert_eq!(answer.header("www-authenticate").is_empty(), status != 401, "{method} {path} {headers:?}");
    }
    let strict = RegistryConfig { anonymous_loopback_reads: false, min_free_bytes: 0, ..RegistryConfig::default() };
    let r = Registry::with(strict).await;
    assert_eq!(r.get(read).await.verdict(), (401, "UNAUTHORIZED".into()));
}

#[tokio::test]
async fn clients_are_told_how_to_authenticate() {
    let r = Registry::start().await;
    let host = r.addr;
    // From elsewhere: Basic.
    let outside = r.raw("GET", "/v2/", &[("host", "registry.example")], "").await;
    assert_eq!(outside.verdict(), (401, "UNAUTHORIZED".into()));
    assert_eq!(outside.header("www-authenticate"), "Basic realm=\"hoistway\"");
    let outside = r.raw("GET", "/v2/token", &[("host", "registry.example")], "").await;
    assert_eq!(outside.header("www-authenticate"), "Basic realm=\"hoistway\"");
    // From here: a token, which is free for reading.
    let realm = format!("Bearer realm=\"http://{host}/v2/token\",service=\"{host}\"");
    assert_eq!(r.get("/v2/").await.header("www-authenticate"), realm);
    let refused = r.raw("POST", "/v2/a/b/blobs/uploads/", &[], "").await;
    assert_eq!(refused.header("www-authenticate"), format!("{realm},scope=\"repository:a/b:pull,push\""));

    let token = async |headers: &[(&str, &str)]| {
        let answer = r.raw("GET", "/v2/token?service=x&scope=repository:a:pull,push", headers, "").await;
        assert_eq!(answer.status, 200);
        assert_eq!(answer.json()["token"], answer.json()["access_token"]);
        format!("Bearer {}", answer.json()["token"].as_str().unwrap())
    };
    let (reader, writer) = (token(&[]).await, token(&[("authorization", &basic(KEY))]).await);
    assert!(!writer.contains(KEY));
    for (auth, method, path, status) in [
        (&reader, "GET", "/v2/", 200),
        (&reader, "POST", "/v2/a/blobs/uploads/", 401),
        (&writer, "GET", "/v2/", 200),
        (&writer, "POST", "/v2/a/blobs/uploads/", 202),
    ] {
        assert_eq!(r.raw(method, path, &[("authorization", auth)], "").await.status, status, "{method} {path}");
    }
    let far = [("host", "registry.example"), ("authorization", &*reader)];
    assert_eq!(r.raw("GET", "/v2/", &far, "").await.status, 401);
    let wrong = r.raw("GET", "/v2/token", &[("authorization", &basic("wrong"))], "").await;
    assert_eq!(wrong.verdict(), (401, "UNAUTHORIZED".into()));
}
