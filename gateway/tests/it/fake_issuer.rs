//! An OpenID Connect issuer on a port of its own, and tokens of every kind.

use axum::{Router, extract::State, http::HeaderMap, response::IntoResponse, routing::get};
use base64::{Engine, engine::general_purpose::URL_SAFE_NO_PAD};
use hoistway_model::tool::IdentityProvider;
use ring::{
    rand::SystemRandom,
    signature::{
        self, ECDSA_P256_SHA256_FIXED_SIGNING, ECDSA_P384_SHA384_FIXED_SIGNING, EcdsaKeyPair, Ed25519KeyPair, KeyPair,
        RsaKeyPair, RsaPublicKeyComponents,
    },
};
use serde_json::{Value, json};
use std::{
    collections::BTreeMap,
    net::SocketAddr,
    sync::{Arc, Mutex},
    time::{SystemTime, UNIX_EPOCH},
};
use tokio::{net::TcpListener, sync::watch};

const RSA: &[u8] = include_bytes!("data/rsa-2048.pk8");

/// An issuer with answers that the test sets.
#[derive(Clone)]
pub struct Issuer(Arc<Inner>);

struct Inner {
    address: SocketAddr,
    /// The published pages, by path: a status, headers and a body.
    pages: Mutex<BTreeMap<&'static str, Page>>,
    hits: watch::Sender<usize>,
    open: watch::Sender<bool>,
}

pub type Page = (u16, Vec<(&'static str, String)>, String);

impl Issuer {
    /// Publishes the public keys of `signers`.
    pub async fn start(signers: &[&Signer]) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let (hits, open) = (watch::Sender::new(0), watch::Sender::new(true));
        let issuer = Self(Arc::new(Inner { address, pages: Mutex::default(), hits, open }));
        issuer.publish(signers);
        issuer.page(
            "/.well-known/openid-configuration",
            200,
            json!({"issuer": issuer.url(), "jwks_uri": issuer.jwks()}),
        );
        let app = Router::new().fallback(get(answer)).with_state(issuer.clone());
        tokio::spawn(async move { axum::serve(listener, app).await.unwrap() });
        issuer
    }

    pub fn url(&self) -> String {
        format!("http://{}", self.0.address)
    }

    pub fn jwks(&self) -> String {
        format!("{}/keys", self.url())
    }

    pub fn publish(&self, signers: &[&Signer]) {
        let keys: Vec<_> = signers.iter().map(|signer| signer.jwk()).collect();
        self.page("/keys", 200, json!({ "keys": keys }));
    }

    pub fn page(&self, path: &'static str, status: u16, body: Value) {
        self.set(path, (status, Vec::new(), body.to_string()));
    }

    pub fn set(&self, path: &'static str, page: Page) {
        self.0.pages.lock().unwrap().insert(path, page);
    }

    /// Returns the number of requests.
    pub fn hits(&self) -> usize {
        *self.0.hits.borrow()
    }

    /// Waits for this number of requests.
    pub async fn asked(&self, times: usize) {
        self.0.hits.subscribe().wait_for(|hits| *hits >= times).await.unwrap();
    }

    /// Sets whether it answers, or keeps its clients waiting.
    pub fn open(&self, open: bool) {
        self.0.open.send_replace(open);
    }

    /// Returns a provider with this issuer.
    pub fn provider(&self, name: &str) -> IdentityProvider {
        IdentityProvider {
            name: crate::fakes::name(name),
            host: "agents.example.com".into(),
            issuer: self.url(),
            jwks_uri: self.jwks(),
            audiences: vec!["agents".into()],
            user_id_claim: "sub".into(),
            allowed_domains: Vec::new(),
            labels: BTreeMap::new(),
            created_at: 0,
            updated_at: 0,
        }
    }

    /// Returns valid claims for `alice`.
    pub fn claims(&self) -> Value {
        let now = now();
        json!({"iss": self.url(), "aud": "agents", "sub": "alice", "iat": now, "nbf": now, "exp": now + 300})
    }
}

async fn answer(State(issuer): State<Issuer>, uri: axum::http::Uri) -> impl IntoResponse {
    issuer.0.hits.send_modify(|hits| *hits += 1);
    let _ = issuer.0.open.subscribe().wait_for(|open| *open).await;
    let found = issuer.0.pages.lock().unwrap().get(uri.path()).cloned();
    let (status, headers, body) = found.unwrap_or((404, Vec::new(), "nothing".into()));
    let mut map = HeaderMap::new();
    for (name, value) in headers {
        map.insert(name, value.parse().unwrap());
    }
    (axum::http::StatusCode::from_u16(status).unwrap(), map, body)
}

pub fn now() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_secs()
}

pub fn base64url(bytes: impl AsRef<[u8]>) -> String {
    URL_SAFE_NO_PAD.encode(bytes)
}

/// A private key.
pub struct Signer {
    pub id: &'static str,
    key: Key,
}

enum Key {
    Rsa(Box<RsaKeyPair>),
    Ec(&'static str, EcdsaKeyPair),
    Ed(Ed25519KeyPair),
}

impl Signer {
    pub fn rsa(id: &'static str) -> Self {
        Self { id, key: Key::Rsa(Box::new(RsaKeyPair::from_pkcs8(RSA).unwrap())) }
    }

    /// Returns a signer on the curve `P-256` or `P-384`.
    pub fn ec(id: &'static str, curve: &'static str) -> Self {
        let algorithm =
            if curve == "P-256" { &ECDSA_P256_SHA256_FIXED_SIGNING } else { &ECDSA_P384_SHA384_FIXED_SIGNING };
        let random = SystemRandom::new();
        let pkcs8 = EcdsaKeyPair::generate_pkcs8(algorithm, &random).unwrap();
        Self { id, key: Key::Ec(curve, EcdsaKeyPair::from_pkcs8(algorithm, pkcs8.as_ref(), &random).unwrap()) }
    }

    pub fn ed(id: &'static str) -> Self {
        let pkcs8 = Ed25519KeyPair::generate_pkcs8(&SystemRandom::new()).unwrap();
        Self { id, key: Key::Ed(Ed25519KeyPair::from_pkcs8(pkcs8.as_ref()).unwrap()) }
    }

    pub fn jwk(&self) -> Value {
        match &self.key {
            Key::Rsa(key) => {
                let key = RsaPublicKeyComponents::<Vec<u8>>::from(key.public());
                json!({"kty": "RSA", "use": "sig", "kid": self.id, "n": base64url(key.n), "e": base64url(key.e)})
            }
            Key::Ec(curve, key) => {
                let point = &key.public_key().as_ref()[1..];
                let (x, y) = point.split_at(point.len() / 2);
                json!({"kty": "EC", "crv": curve, "kid": self.id, "x": base64url(x), "y": base64url(y)})
            }
            Key::Ed(key) => {
                json!({"kty": "OKP", "crv": "Ed25519", "kid": self.id, "x": base64url(key.public_key().as_ref())})
            }
        }
    }

    fn algorithm(&self) -> &'static str {
        match &self.key {
            Key::Rsa(_) => "RS256",
            Key::Ec("P-256", _) => "ES256",
            Key::Ec(..) => "ES384",
            Key::Ed(_) => "EdDSA",
        }
    }

    /// Returns a token with these claims.
    pub fn token(&self, claims: &Value) -> String {
        self.token_with(&json!({"alg": self.algorithm(), "kid": self.id, "typ": "JWT"}), claims)
    }

    /// Returns a token with another header.
    pub fn token_with(&self, header: &Value, claims: &Value) -> String {
        let message = format!("{}.{}", base64url(header.to_string()), base64url(claims.to_string()));
        let random = SystemRandom::new();
        let signature = match &self.key {
            Key::Rsa(key) => {
                let padding: &dyn signature::RsaEncoding = match header["alg"].as_str().unwrap() {
                    "RS384" => &signature::RSA_PKCS1_SHA384,
                    "RS512" => &signature::RSA_PKCS1_SHA512,
                    "PS256" => &signature::RSA_PSS_SHA256,
                    "PS384" => &signature::RSA_PSS_SHA384,
                    "PS512" => &signature::RSA_PSS_SHA512,
                    _ => &signature::RSA_PKCS1_SHA256,
                };
                let mut signature = vec![0; key.public().modulus_len()];
                key.sign(padding, &random, message.as_bytes(), &mut signature).unwrap();
                signature
            }
            Key::Ec(_, key) => key.sign(&random, message.as_bytes()).unwrap().as_ref().to_vec(),
            Key::Ed(key) => key.sign(message.as_bytes()).as_ref().to_vec(),
        };
        format!("{message}.{}", base64url(signature))
    }
}
