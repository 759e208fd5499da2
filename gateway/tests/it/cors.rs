//! Web pages of other origins.

use crate::test_gateway::{ORIGIN, TestGateway};

#[tokio::test]
async fn pages_of_allowed_origins_may_call_and_others_may_not() {
    let gateway = TestGateway::start().await;
    let preflight = async |origin: &str, path: &str| {
        let headers = [
            ("origin", origin),
            ("access-control-request-method", "POST"),
            ("access-control-request-headers", "authorization,content-type"),
        ];
        gateway.call_with("OPTIONS", path, "", &headers).await
    };
    for path in ["/api/agents/a/invoke", "/api/v1/agents/a/invoke/stream", "/api/deploy"] {
        let allowed = preflight(ORIGIN, path).await;
        assert_eq!((allowed.status, allowed.text.as_str()), (204, ""), "no key is needed: browsers send none");
        assert_eq!(allowed.header("access-control-allow-origin"), ORIGIN);
        assert!(allowed.header("access-control-allow-methods").contains("POST"));
        assert!(allowed.header("access-control-allow-headers").contains("authorization"));
        assert_eq!(allowed.header("access-control-allow-credentials"), "");
        for other in ["https://other.example.com", "https://app.example.com.evil.example", "null"] {
            assert_eq!(preflight(other, path).await.header("access-control-allow-origin"), "", "{other}");
        }
    }

    // The page can read every answer, also the error of a missing key.
    let key = format!("Bearer {}", gateway.key);
    for (headers, status) in
        [(vec![("origin", ORIGIN), ("authorization", key.as_str())], 404), (vec![("origin", ORIGIN)], 401)]
    {
        let answer = gateway.call_with("GET", "/api/agents/none", "", &headers).await;
        assert_eq!((answer.status, answer.header("access-control-allow-origin")), (status, ORIGIN));
        assert!(answer.header("access-control-expose-headers").contains("x-request-id"));
        assert!(answer.header("vary").to_ascii_lowercase().contains("origin"));
    }
    let headers = [("origin", "https://other.example.com"), ("authorization", key.as_str())];
    let other = gateway.call_with("GET", "/api/agents", "", &headers).await;
    assert_eq!((other.status, other.header("access-control-allow-origin")), (200, ""));
}
