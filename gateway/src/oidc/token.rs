//! The validation of tokens: RFC 7519 and OpenID Connect Core, with the advice of RFC 8725.

use super::keyset::{ALGORITHMS, KeySet};
use hoistway_model::tool::IdentityProvider;
use jsonwebtoken::{Algorithm, DecodingKey, Header, Validation, errors::ErrorKind};
use serde_json::{Map, Value};
use std::{collections::HashSet, sync::Arc};

/// The longest token, in bytes.
const MAX_TOKEN: usize = 16 << 10;
/// The longest user id, in bytes.
const MAX_USER: usize = 256;
/// The permitted difference between the issuer's clock and ours, in seconds.
const SKEW: u64 = 60;
/// The permitted types of tokens; others, such as logout tokens (RFC 8725, section 3.11), do not authenticate callers.
const TYPES: [&str; 2] = ["jwt", "at+jwt"];

/// The reason that a token is refused.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Refusal {
    /// It is not a token at all.
    Malformed,
    /// It is unsigned, or signed with an algorithm that is not permitted.
    Algorithm,
    /// It is a token for something else.
    Type,
    /// It is signed with a key that the issuer does not publish.
    UnknownKey,
    /// Its signature is wrong.
    Signature,
    /// It has expired.
    Expired,
    /// It is not valid yet.
    NotYetValid,
    /// It has another issuer.
    Issuer,
    /// It is for another audience.
    Audience,
    /// It lacks a claim that every token needs, or has one that cannot be read.
    Claims,
    /// It does not name its user.
    NoUser,
    /// Its mail address is required and not verified.
    Unverified,
    /// Its user's domain is not allowed.
    Domain,
}

impl Refusal {
    /// Returns the name of the reason in metrics.
    pub const fn as_str(self) -> &'static str {
        self.row().0
    }

    /// Returns the message for the caller: plain ASCII without quotes, since it is used in a header too.
    pub const fn text(self) -> &'static str {
        self.row().1
    }

    /// Whether the token is valid and its user is refused nevertheless.
    pub const fn is_forbidden(self) -> bool {
        matches!(self, Self::NoUser | Self::Unverified | Self::Domain)
    }

    /// Whether the token can only be forged: it then counts as a wrong key.
    pub const fn is_forged(self) -> bool {
        matches!(self, Self::Malformed | Self::Algorithm | Self::Type | Self::UnknownKey | Self::Signature)
    }

    const fn row(self) -> (&'static str, &'static str) {
        match self {
            Self::Malformed => ("malformed", "the token is not a JSON Web Token"),
            Self::Algorithm => (
                "algorithm",
                "the token is not signed with one of RS256, RS384, RS512, PS256, PS384, PS512, ES256, ES384, EdDSA",
            ),
            Self::Type => ("type", "the token is neither an ID token nor an access token"),
            Self::UnknownKey => ("unknown_key", "the token is signed with a key that its issuer does not publish"),
            Self::Signature => ("signature", "the token's signature is wrong"),
            Self::Expired => ("expired", "the token has expired"),
            Self::NotYetValid => ("not_yet_valid", "the token is not valid yet"),
            Self::Issuer => ("issuer", "the token is from another issuer"),
            Self::Audience => ("audience", "the token is for another audience"),
            Self::Claims => ("claims", "the token lacks exp, iss or aud, or has one that cannot be read"),
            Self::NoUser => ("no_user", "the token does not name its user in the claim that does here"),
            Self::Unverified => ("unverified", "the token does not say that its mail address is verified"),
            Self::Domain => ("domain", "users of this domain are not let in"),
        }
    }
}

/// A token with a valid structure; its content is not verified yet.
#[derive(Debug)]
pub struct Unverified<'a> {
    text: &'a str,
    header: Header,
}

impl<'a> Unverified<'a> {
    /// Reads the header.
    pub fn parse(text: &'a str) -> Result<Self, Refusal> {
        if text.len() > MAX_TOKEN {
            return Err(Refusal::Malformed);
        }
        let header = jsonwebtoken::decode_header(text).map_err(|e| match e.kind() {
            // The header is a JSON object without a known algorithm.
            ErrorKind::Json(e) if e.is_data() => Refusal::Algorithm,
            _ => Refusal::Malformed,
        })?;
        if !ALGORITHMS.contains(&header.alg) {
            return Err(Refusal::Algorithm);
        }
        let kind = header.typ.as_deref().map(str::to_ascii_lowercase);
        let kind = kind.as_deref().map(|kind| kind.strip_prefix("application/").unwrap_or(kind));
        // An unsupported critical header makes a token invalid (RFC 7515, section 4.1.11).
        if kind.is_some_and(|kind| !TYPES.contains(&kind)) || header.crit.is_some() {
            return Err(Refusal::Type);
        }
        Ok(Self { text, header })
    }

    /// Returns the keys of a set that may have signed it.
    pub fn candidates<'k>(&self, keys: &'k KeySet) -> Vec<&'k DecodingKey> {
        keys.candidates(self.header.kid.as_deref(), self.header.alg)
    }

    /// Whether it contains a key id.
    pub fn names_key(&self) -> bool {
        self.header.kid.is_some()
    }

    /// Returns its user, if it is valid for `provider` with one of the keys.
    pub fn verify(&self, provider: &IdentityProvider, keys: &[&DecodingKey]) -> Result<Arc<str>, Refusal> {
        let rules = rules(provider, self.header.alg);
        let mut refused = Refusal::UnknownKey;
        for key in keys {
            match jsonwebtoken::decode::<Map<String, Value>>(self.text, key, &rules) {
                Ok(token) => return user(provider, &token.claims),
                Err(e) => refused = refusal(e.kind()),
            }
            if refused != Refusal::Signature {
                break;
            }
        }
        Err(refused)
    }
}

fn rules(provider: &IdentityProvider, algorithm: Algorithm) -> Validation {
    let mut rules = Validation::new(algorithm);
    rules.leeway = SKEW;
    rules.validate_nbf = true;
    rules.required_spec_claims = HashSet::from(["exp".to_owned(), "iss".to_owned()]);
    rules.set_issuer(&[&provider.issuer]);
    rules.validate_aud = !provider.audiences.is_empty();
    if rules.validate_aud {
        rules.required_spec_claims.insert("aud".to_owned());
        rules.set_audience(&provider.audiences);
    }
    rules
}

fn refusal(kind: &ErrorKind) -> Refusal {
    match kind {
        ErrorKind::InvalidSignature => Refusal::Signature,
        ErrorKind::ExpiredSignature => Refusal::Expired,
        ErrorKind::ImmatureSignature => Refusal::NotYetValid,
        ErrorKind::InvalidIssuer => Refusal::Issuer,
        ErrorKind::InvalidAudience => Refusal::Audience,
        ErrorKind::MissingRequiredClaim(_) | ErrorKind::InvalidClaimFormat(_) => Refusal::Claims,
        ErrorKind::InvalidAlgorithm | ErrorKind::UnsupportedAlgorithm => Refusal::Algorithm,
        _ => Refusal::Malformed,
    }
}

/// Checks the remaining claims of a token whose signature, times, issuer and audience are valid.
fn user(provider: &IdentityProvider, claims: &Map<String, Value>) -> Result<Arc<str>, Refusal> {
    // The library would also accept a list of issuers.
    if claims.get("iss").and_then(Value::as_str) != Some(&provider.issuer) {
        return Err(Refusal::Issuer);
    }
    if let Some(issued) = claims.get("iat") {
        let issued = issued.as_f64().ok_or(Refusal::Claims)?;
        if issued > (jsonwebtoken::get_current_timestamp() + SKEW) as f64 {
            return Err(Refusal::NotYetValid);
        }
    }
    let user = match claims.get(&provider.user_id_claim) {
        Some(Value::String(text)) => text.clone(),
        Some(Value::Number(number)) if number.is_u64() => number.to_string(),
        _ => return Err(Refusal::NoUser),
    };
    // The id is used in a header, where two users must never look the same.
    if user.is_empty() || user.len() > MAX_USER || user.trim() != user || user.chars().any(char::is_control) {
        return Err(Refusal::NoUser);
    }
    // Some issuers write it as text.
    let yes = |value: &Value| *value == Value::Bool(true) || value.as_str() == Some("true");
    let verified = claims.get("email_verified").map(yes);
    // Anyone could enter another user's address, and an issuer that does not mark it as verified may permit that.
    if provider.user_id_claim == "email" && verified != Some(true) {
        return Err(Refusal::Unverified);
    }
    if !provider.allowed_domains.is_empty() {
        let email = claims.get("email").and_then(Value::as_str).unwrap_or_default();
        let (name, domain) = email.rsplit_once('@').unwrap_or_default();
        let allowed = provider.allowed_domains.iter().any(|allowed| allowed.eq_ignore_ascii_case(domain));
        if name.is_empty() || !allowed {
            return Err(Refusal::Domain);
        }
        if verified != Some(true) {
            return Err(Refusal::Unverified);
        }
    }
    Ok(user.into())
}
