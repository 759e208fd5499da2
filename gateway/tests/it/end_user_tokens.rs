//! Agents with an identity provider: the accepted users, and the user id that the agent receives.

use crate::{
    fake_issuer::{Issuer, Signer, base64url, now},
    fake_runner::{Runner, Script, answer, changed},
    test_gateway::{Answer, TestGateway},
};
use futures_util::future::join_all;
use hoistway_gateway::{
    access_control::AccessLimits,
    oidc::{CallerLimits, cache::Times},
    rate_limits::Rate,
    state::Limits,
};
use hoistway_model::{
    Operation, ToolRegistry,
    agent::{Route, RouteEvent},
    tool::IdentityProvider,
};
use serde_json::{Value, json};
use std::time::Duration;

const INVOKE: &str = "/api/agents/a/invoke";

const BODY: &str = r#"{"message": "hi"}"#;

/// An agent "a" behind the provider "sso", whose issuer publishes the keys of two signers.
struct Case {
    gateway: TestGateway,
    runner: Runner,
    issuer: Issuer,
    ed: Signer,
    rsa: Signer,
}

/// Keys are never fresh: every use fetches them.
fn never_fresh() -> Times {
    let zero = Duration::ZERO;
    Times { fresh_min: zero, fresh_max: zero, fresh: zero, again: zero, backoff: (zero, zero), ..Times::default() }
}

/// Keys are cached, and newer ones may be fetched at once.
fn impatient() -> Times {
    Times { again: Duration::ZERO, backoff: (Duration::ZERO, Duration::ZERO), ..Times::default() }
}

impl Case {
    async fn start() -> Self {
        Self::with(Times::default()).await
    }

    async fn with(times: Times) -> Self {
        Self::with_all(times, None, answer("200 OK", r#"{"response": 1}"#)).await
    }

    async fn with_all(times: Times, rate: Option<Rate>, script: Script) -> Self {
        let limits = CallerLimits { times, rate, ..CallerLimits::default() };
        let access = AccessLimits::default();
        let gateway = TestGateway::with_all(Limits::default(), access, limits).await;
        let (ed, rsa) = (Signer::ed("ed"), Signer::rsa("rsa"));
        let issuer = Issuer::start(&[&ed, &rsa]).await;
        let runner = Runner::start(script).await;
        let case = Self { gateway, runner, issuer, ed, rsa };
        case.register(case.issuer.provider("sso")).await;
        case.guard(Some("sso")).await;
        case
    }

    async fn register(&self, provider: IdentityProvider) {
        self.gateway.tools.put_identity_provider(Operation::new(), provider).await.unwrap();
    }

    /// Gives this provider to the agent's next revision.
    async fn guard(&self, provider: Option<&str>) {
        let identity_provider = provider.map(crate::fakes::name);
        let needs_caller_identity = provider.is_some();
        changed(&self.gateway, Route { needs_caller_identity, identity_provider, ..self.runner.route() }).await;
    }

    async fn invoke(&self, headers: &[(&str, &str)]) -> Answer {
        self.gateway.call_with("POST", INVOKE, BODY, headers).await
    }

    /// Invokes with the token and no key.
    async fn with_token(&self, token: &str) -> Answer {
        self.invoke(&[("authorization", &format!("Bearer {token}"))]).await
    }

    fn token(&self) -> String {
        self.ed.token(&self.issuer.claims())
    }

    /// Returns a token with changed claims; null removes one.
    fn token_but(&self, change: Value) -> String {
        let mut claims = self.issuer.claims();
        for (key, value) in change.as_object().unwrap() {
            match value {
                Value::Null => claims.as_object_mut().unwrap().remove(key),
                value => claims.as_object_mut().unwrap().insert(key.clone(), value.clone()),
            };
        }
        self.ed.token(&claims)
    }

    /// Returns the user id in each request to the runner.
    fn users(&self) -> Vec<String> {
        let requests = self.runner.requests.lock().unwrap();
        let named = |request: &String| -> Vec<String> {
            let lines = request.lines().filter_map(|line| line.strip_prefix("x-end-user-id: "));
            lines.map(str::to_owned).collect()
        };
        requests.iter().map(|request| named(request).join(" and ")).collect()
    }
}

#[tokio::test]
async fn a_token_is_accepted_in_each_header_and_names_the_user() {
    let case = Case::start().await;
    let (token, key) = (format!("Bearer {}", case.token()), format!("Bearer {}", case.gateway.key));
    let ways: [&[(&str, &str)]; 6] = [
        &[("authorization", &token)],
        &[("x-end-user-token", &case.token())],
        &[("x-end-user-token", &token)],
        &[("authorization", &key), ("x-end-user-token", &case.token())],
        &[("authorization", &token), ("x-runagents-api-key", &case.gateway.key)],
        &[("authorization", &token), ("x-end-user-token", &case.token())],
    ];
    for way in ways {
        // A user id sent by the client is ignored.
        let forged = [("x-end-user-id", "root"), ("X-End-User-ID", "admin"), ("x-hoistway-invoke-token", "forged")];
        let answer = case.invoke(&[way, &forged].concat()).await;
        assert_eq!(answer.status, 200, "{way:?}: {}", answer.text);
    }
    assert_eq!(case.users(), ["alice"; 6]);
    let sent = case.runner.requests.lock().unwrap().join("\n");
    assert!(!sent.contains(&case.token()) && !sent.contains(&case.gateway.key) && !sent.contains("forged"));
    assert_eq!(case.issuer.hits(), 1, "its keys are kept");

    // The same under /api/v1, and for streams.
    for path in ["/api/v1/agents/a/invoke", "/api/agents/a/invoke/stream", "/api/v1/agents/a/invoke/stream"] {
        let answer = case.gateway.call_with("POST", path, BODY, &[("authorization", &token)]).await;
        assert_eq!(answer.status, 200, "{path}: {}", answer.text);
        let answer = case.gateway.call("POST", path, BODY).await;
        assert_eq!((answer.status, answer.header("www-authenticate")), (401, "Bearer"), "{path}");
    }
    // And for an application's routes, which receive the client's other headers.
    for path in ["/api/agents/a/app/x", "/api/v1/agents/a/app/"] {
        let named = [("authorization", token.as_str()), ("x-end-user-id", "mallory"), ("x_end_user_id", "mallory")];
        case.gateway.call_with("PUT", path, BODY, &named).await;
        let answer = case.gateway.call("PUT", path, BODY).await;
        assert_eq!((answer.status, answer.header("www-authenticate")), (401, "Bearer"), "{path}");
    }
    assert_eq!(case.users(), ["alice"; 11]);
    let sent = case.runner.requests.lock().unwrap().join("\n");
    assert!(!sent.contains(&case.token()) && !sent.contains("mallory"), "{sent}");
}

#[tokio::test]
async fn every_allowed_algorithm_is_accepted() {
    let case = Case::start().await;
    let (p256, p384) = (Signer::ec("p256", "P-256"), Signer::ec("p384", "P-384"));
    case.issuer.publish(&[&case.ed, &case.rsa, &p256, &p384]);
    let claims = case.issuer.claims();
    let rsa = ["RS256", "RS384", "RS512", "PS256", "PS384", "PS512"];
    let mut tokens: Vec<_> =
        rsa.iter().map(|alg| case.rsa.token_with(&json!({"alg": alg, "kid": "rsa"}), &claims)).collect();
    tokens.extend([&case.ed, &p256, &p384].map(|signer| signer.token(&claims)));
    tokens.push(case.ed.token_with(&json!({"alg": "EdDSA", "kid": "ed", "typ": "at+jwt"}), &claims));
    // Without a key id the key that fits is used.
    tokens.push(case.ed.token_with(&json!({"alg": "EdDSA"}), &claims));
    for token in &tokens {
        let answer = case.with_token(token).await;
        assert_eq!(answer.status, 200, "{token}: {}", answer.text);
    }
    assert_eq!(case.users().len(), tokens.len());
}

#[tokio::test]
async fn a_wrong_token_is_refused_with_its_reason_alone() {
    let case = Case::start().await;
    let (good, now) = (case.token(), now());
    let (signed, signature) = good.rsplit_once('.').unwrap();
    let (head, claims) = signed.split_once('.').unwrap();
    let alg = |header: Value| case.ed.token_with(&header, &case.issuer.claims());
    let stolen = Signer::ed("ed").token(&case.issuer.claims());
    let unsigned = format!("{}.{claims}.", base64url(json!({"alg": "none"}).to_string()));
    // Signed with the public key as a shared secret, a classic attack.
    let shared = format!("{}.{claims}.{signature}", base64url(json!({"alg": "HS256", "kid": "ed"}).to_string()));
    let other_claims = base64url(json!({"sub": "root"}).to_string());
    let invalid = [
        (format!("{head}.{other_claims}.{signature}"), "the token's signature is wrong"),
        (stolen, "the token's signature is wrong"),
        (format!("{signed}."), "the token's signature is wrong"),
        (signed.to_owned(), "the token is not a JSON Web Token"),
        ("eyJ.x.y".to_owned(), "the token is not a JSON Web Token"),
        (format!("{good}.{good}"), "the token is not a JSON Web Token"),
        (format!("ey.{}", "x".repeat(17_000)), "the token is not a JSON Web Token"),
        (
            alg(json!({"alg": "EdDSA", "kid": "gone"})),
            "the token is signed with a key that its issuer does not publish",
        ),
        (alg(json!({"alg": "RS256", "kid": "ed"})), "the token is signed with a key that its issuer does not publish"),
        (alg(json!({"alg": "EdDSA", "typ": "logout+jwt"})), "the token is neither an ID token nor an access token"),
        (alg(json!({"alg": "EdDSA", "crit": ["x"], "x": 1})), "the token is neither an ID token nor an access token"),
        (case.token_but(json!({"exp": now - 120})), "the token has expired"),
        (case.token_but(json!({"nbf": now + 120})), "the token is not valid yet"),
        (case.token_but(json!({"iat": now + 120})), "the token is not valid yet"),
        (case.token_but(json!({"iss": "https://other.example"})), "the token is from another issuer"),
        (case.token_but(json!({"iss": [case.issuer.url()]})), "the token is from another issuer"),
        (case.token_but(json!({"aud": "others"})), "the token is for another audience"),
        (case.token_but(json!({"aud": ["others", "more"]})), "the token is for another audience"),
        (case.token_but(json!({"exp": null})), "the token lacks exp, iss or aud, or has one that cannot be read"),
        (case.token_but(json!({"exp": "soon"})), "the token lacks exp, iss or aud, or has one that cannot be read"),
        (case.token_but(json!({"aud": null})), "the token lacks exp, iss or aud, or has one that cannot be read"),
        (case.token_but(json!({"iss": null})), "the token lacks exp, iss or aud, or has one that cannot be read"),
    ];
    let algorithms =
        "the token is not signed with one of RS256, RS384, RS512, PS256, PS384, PS512, ES256, ES384, EdDSA";
    for (token, why) in invalid.into_iter().chain([(unsigned, algorithms), (shared, algorithms)]) {
        // With a key beside it, so that this address is not throttled.
        let headers = [("x-end-user-token", token.as_str()), ("x-runagents-api-key", &case.gateway.key)];
        let answer = case.invoke(&headers).await;
        assert_eq!(answer.error(), format!("401 unauthenticated {why}"), "{token}");
        let told = format!("Bearer error=\"invalid_token\", error_description=\"{why}\"");
        assert_eq!(answer.header("www-authenticate"), told);
        let alone = case.with_token(&token).await;
        assert!([401, 429].contains(&alone.status), "{}", alone.text);
    }
    let nobody = "the token does not name its user in the claim that does here";
    for sub in
        [Value::Null, json!(""), json!(" alice"), json!("a\nx-end-user-id: root"), json!(true), json!("x".repeat(257))]
    {
        let answer = case.with_token(&case.token_but(json!({"sub": sub}))).await;
        assert_eq!(answer.error(), format!("403 permission_denied {nobody}"), "{sub}");
        let told = format!("Bearer error=\"insufficient_scope\", error_description=\"{nobody}\"");
        assert_eq!(answer.header("www-authenticate"), told);
    }
    assert!(case.users().is_empty());

    // Times within the permitted clock skew, several audiences, numbers with fractions, users in any alphabet.
    for (change, user) in [
        (json!({"exp": now - 30, "nbf": now + 30, "iat": now + 30}), "alice"),
        (json!({"aud": ["others", "agents"], "iat": 1_700_000_000.25, "nbf": null}), "alice"),
        (json!({"sub": "jürgen 💡"}), "jürgen 💡"),
        (json!({"sub": 4711}), "4711"),
    ] {
        let answer = case.with_token(&case.token_but(change.clone())).await;
        assert_eq!(answer.status, 200, "{change}: {}", answer.text);
        assert_eq!(case.users().last().unwrap(), user);
    }
    let metrics = case.gateway.get("/metrics").await.text;
    let counted = "hoistway_caller_tokens_total{service=\"gateway\",provider=\"sso\",outcome=\"audience\"} 4";
    let plain = "hoistway_caller_tokens_total{provider=\"sso\",outcome=\"audience\"} 4";
    assert!(metrics.contains(counted) || metrics.contains(plain), "{metrics}");
}

#[tokio::test]
async fn api_keys_and_tokens_open_only_their_own_routes() {
    let case = Case::start().await;
    let token = format!("Bearer {}", case.token());
    let must_name = case.gateway.call("POST", INVOKE, BODY).await;
    assert_eq!(
        must_name.error(),
        "401 unauthenticated agent \"a\" must know its user: send a token of its identity provider, as \
         \"Authorization: Bearer TOKEN\" in place of the API key, or as \"X-End-User-Token: TOKEN\" beside it"
    );
    // A key beside the token must be valid, and must have the scope for invokes.
    let with = async |key: &str| case.invoke(&[("authorization", token.as_str()), ("x-runagents-api-key", key)]).await;
    assert_eq!(with("hw_wrong").await.error(), "401 unauthenticated the API key is not valid");
    let (_, reader) = case.gateway.make_key("reader", &["read"]).await;
    assert_eq!(with(&reader).await.status, 403);
    let (_, invoker) = case.gateway.make_key("invoker", &["invoke"]).await;
    assert_eq!(with(&invoker).await.status, 200);

    // Two tokens.
    let other = case.token_but(json!({"sub": "bob"}));
    let answer = case.invoke(&[("authorization", &token), ("x-end-user-token", &other)]).await;
    assert_eq!(answer.error(), "400 invalid_argument there is more than one token");

    // A token is accepted for invokes of agents with its provider only.
    let stranger = "401 unauthenticated this token opens nothing here: an API key is needed, or a token of the agent's \
        own identity provider";
    let of = async |path: &str| case.gateway.call_with("POST", path, BODY, &[("authorization", token.as_str())]).await;
    assert_eq!(of("/api/agents/nobody/invoke").await.error(), stranger);
    let answer = case.gateway.call_with("GET", "/api/agents", "", &[("authorization", &token)]).await;
    assert_eq!(answer.error(), "401 unauthenticated the API key is not valid");
    assert_eq!(case.users(), ["alice"]);
    case.guard(None).await;
    assert_eq!(of(INVOKE).await.error(), stranger);
    // Beside a key the token is ignored, and no user is set.
    let forged = [("x-runagents-api-key", invoker.as_str()), ("authorization", &token), ("x-end-user-id", "root")];
    assert_eq!(case.invoke(&forged).await.status, 200);
    assert_eq!(case.users(), ["alice", ""]);
    case.gateway.agents.route(RouteEvent::Removed(crate::fakes::name("a")));

    // Wrong tokens are throttled as wrong keys are.
    let mut last = case.with_token("eyJ.x.y").await.status;
    for _ in 0..40 {
        last = of("/api/agents/nobody/invoke").await.status;
    }
    assert_eq!(last, 429);
}

#[tokio::test]
async fn users_of_other_domains_are_refused() {
    let case = Case::start().await;
    let allowed_domains = vec!["example.com".to_owned(), "example.org".to_owned()];
    case.register(IdentityProvider { allowed_domains, ..case.issuer.provider("sso") }).await;
    let (domain, unverified) =
        ("users of this domain are not let in", "the token does not say that its mail address is verified");
    for (claims, want) in [
        (json!({"email": "alice@example.com", "email_verified": true}), None),
        (json!({"email": "alice@EXAMPLE.org", "email_verified": "true"}), None),
        (json!({"email": "alice@example.com"}), Some(unverified)),
        (json!({"email": "alice@example.com", "email_verified": false}), Some(unverified)),
        (json!({"email": "alice@example.com", "email_verified": 1}), Some(unverified)),
        (json!({"email": "alice@sub.example.com", "email_verified": true}), Some(domain)),
        (json!({"email": "alice@example.com@evil.example", "email_verified": true}), Some(domain)),
        (json!({"email": "alice@evil-example.com", "email_verified": true}), Some(domain)),
        (json!({"email": "@example.com", "email_verified": true}), Some(domain)),
        (json!({"email": "example.com", "email_verified": true}), Some(domain)),
        (json!({"hd": "example.com"}), Some(domain)),
        (json!({}), Some(domain)),
    ] {
        let answer = case.with_token(&case.token_but(claims.clone())).await;
        match want {
            None => assert_eq!(answer.status, 200, "{claims}: {}", answer.text),
            Some(why) => assert_eq!(answer.error(), format!("403 permission_denied {why}"), "{claims}"),
        }
    }
    // An address that identifies the user must be verified, since anyone could have entered it.
    case.register(IdentityProvider { user_id_claim: "email".into(), ..case.issuer.provider("sso") }).await;
    for claims in [json!({"email": "a@b.example", "email_verified": false}), json!({"email": "a@b.example"})] {
        let answer = case.with_token(&case.token_but(claims)).await;
        assert_eq!(answer.error(), format!("403 permission_denied {unverified}"));
    }
    let verified = json!({"email": "a@b.example", "email_verified": true});
    assert_eq!(case.with_token(&case.token_but(verified)).await.status, 200);
    assert_eq!(case.users(), ["alice", "alice", "a@b.example"]);
}

#[tokio::test]
async fn rotated_keys_are_fetched_once_for_all_waiting_requests() {
    let case = Case::with(impatient()).await;
    assert_eq!(case.with_token(&case.token()).await.status, 200);
    assert_eq!(case.issuer.hits(), 1);

    let new = Signer::ed("new");
    case.issuer.publish(&[&new]);
    let token = new.token(&case.issuer.claims());
    case.issuer.open(false);
    let many = join_all((0..20).map(|_| case.with_token(&token)));
    let release = async {
        case.issuer.asked(2).await;
        case.issuer.open(true);
    };
    let (many, ()) = tokio::join!(many, release);
    assert!(many.iter().all(|answer| answer.status == 200), "{:?}", many.iter().map(|a| &a.text).collect::<Vec<_>>());
    assert_eq!(case.issuer.hits(), 2);
    // A key that is no longer published is not accepted.
    let old = case.with_token(&case.token()).await;
    assert!(old.text.contains("does not publish"), "{}", old.text);

    // A new key without an id.
    let (first, second) = (Signer::ed("x"), Signer::ed("x"));
    let nameless = |signer: &Signer| signer.token_with(&json!({"alg": "EdDSA"}), &case.issuer.claims());
    case.issuer.publish(&[&first]);
    assert_eq!(case.with_token(&nameless(&first)).await.status, 200);
    case.issuer.publish(&[&second]);
    assert_eq!(case.with_token(&nameless(&second)).await.status, 200);
}

#[tokio::test]
async fn unknown_key_ids_do_not_cause_repeated_fetches() {
    let case = Case::start().await;
    assert_eq!(case.with_token(&case.token()).await.status, 200);
    for _ in 0..10 {
        let invented = case.ed.token_with(&json!({"alg": "EdDSA", "kid": "invented"}), &case.issuer.claims());
        assert_eq!(case.with_token(&invented).await.status, 401);
    }
    assert_eq!(case.issuer.hits(), 1, "the keys are only just fetched");
}

#[tokio::test]
async fn old_keys_are_used_while_newer_ones_cannot_be_fetched() {
    let case = Case::with(never_fresh()).await;
    assert_eq!(case.with_token(&case.token()).await.status, 200);
    assert_eq!(case.with_token(&case.token()).await.status, 200);
    assert_eq!(case.issuer.hits(), 2);
    case.issuer.page("/keys", 500, json!({}));
    assert_eq!(case.with_token(&case.token()).await.status, 200);
    assert_eq!(case.issuer.hits(), 3);
    let shown = case.gateway.get("/api/identity-providers/sso").await.json();
    let why = format!("{}/keys answered with HTTP status 500", case.issuer.url());
    let message = format!("newer keys cannot be fetched, and those from before are used: {why}");
    assert_eq!(shown["status"], json!({"phase": "Failed", "message": message}));
    // The keys can be fetched again, and one is missing.
    case.issuer.publish(&[&case.rsa]);
    assert_eq!(case.with_token(&case.token()).await.status, 401);
    assert_eq!(case.with_token(&case.rsa.token(&case.issuer.claims())).await.status, 200);
    let shown = case.gateway.get("/api/identity-providers/sso").await.json();
    assert_eq!(shown["status"], json!({"phase": "Ready", "message": "1 key"}));
}

#[tokio::test]
async fn a_failing_issuer_is_503_and_shown_in_the_status() {
    let case = Case::with(impatient()).await;
    let big = format!("{{\"keys\": [], \"x\": \"{}\"}}", "x".repeat(300 << 10));
    let moved = vec![("location", format!("{}/elsewhere", case.issuer.url()))];
    case.issuer.page("/elsewhere", 200, json!({"keys": [case.ed.jwk()]}));
    let oct = json!({"keys": [{"kty": "oct", "kid": "ed", "k": "c2VjcmV0"}]}).to_string();
    for (page, why) in [
        ((404, vec![], String::new()), " answered with HTTP status 404"),
        ((302, moved, String::new()), " answered with HTTP status 302"),
        ((200, vec![], "<html>".to_owned()), ": what is there is not a set of keys (JWKS)"),
        ((200, vec![], oct), ": none of the keys there can be used to check signatures"),
        ((200, vec![], big), " answered with more than 256 KiB"),
    ] {
        case.issuer.set("/keys", page);
        let answer = case.with_token(&case.token()).await;
        let text = "503 unavailable the keys of the identity provider \"sso\" cannot be fetched now";
        assert_eq!((answer.error().as_str(), answer.header("retry-after")), (text, "1"), "{why}");
        let shown = case.gateway.get("/api/identity-providers/sso").await.json();
        let message = format!("its keys cannot be fetched: {}{why}", case.issuer.jwks());
        assert_eq!(shown["status"], json!({"phase": "Failed", "message": message}));
    }
    case.issuer.publish(&[&case.ed]);
    assert_eq!(case.with_token(&case.token()).await.status, 200);
    assert_eq!(case.users(), ["alice"]);
}

#[tokio::test]
async fn keys_are_discovered_from_the_same_issuer_alone() {
    let case = Case::with(impatient()).await;
    case.register(IdentityProvider { jwks_uri: String::new(), ..case.issuer.provider("sso") }).await;
    assert_eq!(case.with_token(&case.token()).await.status, 200);
    let configuration = "/.well-known/openid-configuration";
    let jwks = case.issuer.jwks();
    for (page, why) in [
        (json!({"issuer": "https://other.example", "jwks_uri": jwks}), "is the configuration of another issuer"),
        (json!({"issuer": case.issuer.url()}), "is not an OpenID configuration"),
        (json!({"issuer": case.issuer.url(), "jwks_uri": "http://keys.example/k"}), "does not begin with https://"),
        (
            json!({"issuer": case.issuer.url(), "jwks_uri": "https://169.254.169.254/k"}),
            "is not asked: it is at an address that may not be asked",
        ),
    ] {
        case.issuer.page(configuration, 200, page);
        // Replaced by another one of the same name, and back: no old keys are left.
        case.register(case.issuer.provider("sso")).await;
        assert_eq!(case.with_token(&case.token()).await.status, 200);
        case.register(IdentityProvider { jwks_uri: String::new(), ..case.issuer.provider("sso") }).await;
        assert_eq!(case.with_token(&case.token()).await.status, 503);
        let shown = case.gateway.get("/api/identity-providers/sso").await.json();
        assert!(shown["status"]["message"].as_str().unwrap().contains(why), "{shown}");
    }
}

#[tokio::test]
async fn a_changed_or_deleted_provider_counts_from_the_next_invoke() {
    let case = Case::start().await;
    let token = case.token();
    assert_eq!(case.with_token(&token).await.status, 200);
    case.register(IdentityProvider { audiences: vec!["others".into()], ..case.issuer.provider("sso") }).await;
    assert_eq!(case.with_token(&token).await.error(), "401 unauthenticated the token is for another audience");
    case.register(IdentityProvider { audiences: Vec::new(), ..case.issuer.provider("sso") }).await;
    assert_eq!(case.with_token(&token).await.status, 200);
    assert_eq!(case.issuer.hits(), 1, "its keys are the same");
    // Another issuer under the same name: the keys of the first do not count.
    let ed = Signer::ed("ed");
    let other = Issuer::start(&[&ed]).await;
    case.register(other.provider("sso")).await;
    let of_other = |signer: &Signer| signer.token(&other.claims());
    assert_eq!(
        case.with_token(&of_other(&case.ed)).await.error(),
        "401 unauthenticated the token's signature is wrong"
    );
    assert_eq!(case.with_token(&of_other(&ed)).await.status, 200);
    // The agent's next revision has another provider.
    case.register(case.issuer.provider("second")).await;
    case.guard(Some("second")).await;
    assert_eq!(case.with_token(&of_other(&ed)).await.error(), "401 unauthenticated the token's signature is wrong");
    assert_eq!(case.with_token(&token).await.status, 200);

    case.gateway.tools.delete_identity_provider(Operation::new(), crate::fakes::name("second")).await.unwrap();
    assert_eq!(
        case.with_token(&token).await.error(),
        "403 permission_denied the identity provider \"second\" of this agent is not registered any more"
    );
}

#[tokio::test]
async fn a_user_without_a_key_has_a_rate_limit() {
    let rate = Rate::new(1, Duration::from_secs(3_600), 2);
    let case = Case::with_all(Times::default(), rate, answer("200 OK", r#"{"response": 1}"#)).await;
    let statuses = join_all((0..3).map(|_| async { case.with_token(&case.token()).await.status })).await;
    assert_eq!(statuses.iter().filter(|status| **status == 200).count(), 2);
    let refused = case.with_token(&case.token()).await;
    assert_eq!(refused.error(), "429 resource_exhausted this user sends too many invokes (setting invokes_per_second)");
    assert_eq!(case.with_token(&case.token_but(json!({"sub": "bob"}))).await.status, 200);
    let key = [("x-runagents-api-key", case.gateway.key.as_str()), ("x-end-user-token", &case.token())];
    assert_eq!(case.invoke(&key).await.status, 200, "a key has its own");
}

#[tokio::test]
async fn the_status_shows_fetch_errors_to_administrators_alone() {
    let case = Case::with(impatient()).await;
    let (_, reader) = case.gateway.make_key("reader", &["read"]).await;
    let (_, deployer) = case.gateway.make_key("deployer", &["deploy"]).await;
    let listen = || tokio::net::TcpListener::bind("127.0.0.1:0");
    let closed = listen().await.unwrap().local_addr().unwrap();
    let hangs_up = listen().await.unwrap();
    let no_http = hangs_up.local_addr().unwrap();
    tokio::spawn(async move { while hangs_up.accept().await.is_ok() {} });
    let mut told = Vec::new();
    for at in [format!("http://{closed}/k"), format!("http://{no_http}/k"), format!("{}/none", case.issuer.url())] {
        case.register(IdentityProvider { jwks_uri: at.clone(), ..case.issuer.provider("sso") }).await;
        assert_eq!(case.with_token(&case.token()).await.status, 503);
        for key in [&reader, &deployer] {
            let one = case.gateway.call_as(key, "GET", "/api/identity-providers/sso", "").await.json();
            let all = case.gateway.call_as(key, "GET", "/api/identity-providers", "").await.json();
            assert_eq!(one["status"], all[0]["status"]);
            told.push(one["status"].clone());
        }
        let shown = case.gateway.get("/api/identity-providers/sso").await.json();
        assert!(shown["status"]["message"].as_str().unwrap().contains(&at), "{shown}");
    }
    assert_eq!(told[0]["phase"], "Failed");
    assert!(told.iter().all(|status| *status == told[0]), "{told:?}");
}

#[tokio::test]
async fn registering_a_provider_fetches_its_keys() {
    let case = Case::start().await;
    let document = |keys: String| {
        let issuer = json!({"issuer": case.issuer.url(), "jwksUri": keys});
        json!({"name": "new", "spec": {"host": "h.example", "userIDClaim": "sub", "identityProvider": issuer}})
    };
    let made = case.gateway.post("/api/identity-providers", document(case.issuer.jwks())).await;
    assert_eq!(made.status, 201, "{}", made.text);
    assert!(made.json()["warnings"][0].as_str().unwrap().starts_with("spec.identityProvider.audiences: "));
    case.issuer.asked(1).await;
    case.gateway.state.tasks.close();
    case.gateway.state.tasks.wait().await;
    case.gateway.state.tasks.reopen();
    let shown = case.gateway.get("/api/identity-providers/new").await.json();
    assert_eq!(shown["status"], json!({"phase": "Ready", "message": "2 keys"}));
    // Registering it again fetches its keys again, without a wait.
    assert_eq!(case.gateway.post("/api/identity-providers", document(case.issuer.jwks())).await.status, 200);
    case.issuer.asked(2).await;
}
