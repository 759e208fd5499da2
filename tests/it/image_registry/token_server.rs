//! A token server of a registry, as the distribution project's token specification asks for.

use base64::{
    Engine,
    engine::general_purpose::{STANDARD, URL_SAFE_NO_PAD},
};
use hoistway_testing::ANN;
use ring::{
    rand::SystemRandom,
    signature::{ECDSA_P256_SHA256_FIXED_SIGNING, EcdsaKeyPair},
};
use serde_json::{Value, json};
use std::{
    io::{BufRead, BufReader, Read, Write},
    net::TcpListener,
    path::Path,
    sync::Arc,
    time::{SystemTime, UNIX_EPOCH},
};

/// What Docker would keep in the place of a password.
pub const IDENTITY_TOKEN: &str = "identity-of-ann";

/// It gives those who show the password or the identity token what they ask for.
pub struct TokenServer {
    pub url: String,
}

impl TokenServer {
    /// Starts it, and writes the certificate of its key to `certificate`.
    pub fn start(certificate: &Path) -> Self {
        let key = rcgen::KeyPair::generate_for(&rcgen::PKCS_ECDSA_P256_SHA256).unwrap();
        let signed = rcgen::CertificateParams::new(vec!["tokens.test".to_owned()]).unwrap().self_signed(&key).unwrap();
        std::fs::write(certificate, signed.pem()).unwrap();
        let der = STANDARD.encode(signed.der());
        let random = SystemRandom::new();
        let key = EcdsaKeyPair::from_pkcs8(&ECDSA_P256_SHA256_FIXED_SIGNING, &key.serialize_der(), &random).unwrap();
        let key = Arc::new(key);
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let url = format!("http://{}/token", listener.local_addr().unwrap());
        std::thread::spawn(move || {
            while let Ok((mut stream, _)) = listener.accept() {
                let mut reader = BufReader::new(stream.try_clone().unwrap());
                let lines = reader.by_ref().lines().map_while(Result::ok);
                let head: Vec<String> = lines.take_while(|line| !line.is_empty()).collect();
                let length = head
                    .iter()
                    .find_map(|line| line.to_lowercase().strip_prefix("content-length:")?.trim().parse().ok());
                let mut form = String::new();
                reader.take(length.unwrap_or(0)).read_to_string(&mut form).unwrap();
                let (status, body) = answer(&head, &form, &key, &der);
                let length = body.len();
                let head = "Connection: close\r\nContent-Type: application/json";
                let _ = write!(stream, "HTTP/1.1 {status}\r\n{head}\r\nContent-Length: {length}\r\n\r\n{body}");
            }
        });
        Self { url }
    }
}

/// What it answers: to a GET with the password, or to a POST with the identity token.
fn answer(head: &[String], form: &str, key: &EcdsaKeyPair, certificate: &str) -> (&'static str, String) {
    let mut words = head[0].split(' ');
    let (method, path) = (words.next().unwrap(), words.next().unwrap());
    let mut url = reqwest::Url::parse("http://tokens.test").unwrap().join(path).unwrap();
    if method == "POST" {
        url.set_query(Some(form));
    }
    let values = |wanted: &str| -> Vec<String> {
        url.query_pairs().filter(|(name, _)| name == wanted).map(|(_, value)| value.into_owned()).collect()
    };
    let is_allowed = match method {
        "POST" => {
            values("grant_type") == ["refresh_token"]
                && values("refresh_token") == [IDENTITY_TOKEN]
                && values("service") == ["registry"]
                && !values("client_id").is_empty()
        }
        _ => {
            let login = STANDARD.encode(format!("{}:{}", ANN.name, ANN.password));
            head.iter().any(|line| line.eq_ignore_ascii_case(&format!("authorization: Basic {login}")))
        }
    };
    if !is_allowed {
        return ("401 Unauthorized", "{}".to_owned());
    }
    let scopes = values("scope");
    let scopes = scopes.iter().flat_map(|scopes| scopes.split(' '));
    let access: Vec<Value> = scopes
        .filter_map(|scope| {
            let (rest, actions) = scope.rsplit_once(':')?;
            let (kind, name) = rest.split_once(':')?;
            let actions: Vec<&str> = actions.split(',').collect();
            Some(json!({"type": kind, "name": name, "actions": actions}))
        })
        .collect();
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_secs();
    let claims = json!({
        "iss": "test", "sub": ANN.name, "aud": "registry", "exp": now + 300, "nbf": now - 10, "iat": now,
        "jti": format!("{now}"), "access": access,
    });
    let part = |value: Value| URL_SAFE_NO_PAD.encode(value.to_string());
    let text = format!("{}.{}", part(json!({"typ": "JWT", "alg": "ES256", "x5c": [certificate]})), part(claims));
    let signature = key.sign(&SystemRandom::new(), text.as_bytes()).unwrap();
    let token = format!("{text}.{}", URL_SAFE_NO_PAD.encode(signature.as_ref()));
    // Each form has a name of its own for it.
    let name = if method == "POST" { "access_token" } else { "token" };
    ("200 OK", json!({name: token, "expires_in": 300}).to_string())
}
