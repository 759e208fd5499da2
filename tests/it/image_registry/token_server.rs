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
    io::{BufRead, BufReader, Write},
    net::TcpListener,
    path::Path,
    sync::Arc,
    time::{SystemTime, UNIX_EPOCH},
};

/// It gives those who show the password what they ask for.
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
                let lines = BufReader::new(stream.try_clone().unwrap()).lines().map_while(Result::ok);
                let head: Vec<String> = lines.take_while(|line| !line.is_empty()).collect();
                let (status, body) = answer(&head, &key, &der);
                let length = body.len();
                let head = "Connection: close\r\nContent-Type: application/json";
                let _ = write!(stream, "HTTP/1.1 {status}\r\n{head}\r\nContent-Length: {length}\r\n\r\n{body}");
            }
        });
        Self { url }
    }
}

fn answer(head: &[String], key: &EcdsaKeyPair, certificate: &str) -> (&'static str, String) {
    let login = STANDARD.encode(format!("{}:{}", ANN.name, ANN.password));
    if !head.iter().any(|line| line.eq_ignore_ascii_case(&format!("authorization: Basic {login}"))) {
        return ("401 Unauthorized", "{}".to_owned());
    }
    let path = head[0].split(' ').nth(1).unwrap();
    let url = reqwest::Url::parse("http://tokens.test").unwrap().join(path).unwrap();
    let scopes = url.query_pairs().filter(|(name, _)| name == "scope").map(|(_, value)| value.into_owned());
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
    ("200 OK", json!({"token": token, "expires_in": 300}).to_string())
}
