//! The query string: typed, with errors that name the parameter.

use super::{
    error::{ApiError, ApiResult},
    tool_connection,
};
use axum::extract::FromRequestParts;
use hoistway_model::{Code, Error, Name, Result, error::excerpt};
use http::request::Parts;
use std::{collections::HashMap, convert::Infallible, ops::RangeInclusive, str::FromStr};

/// The parameters of a request; the last value of a repeated one counts, unless [`only`](Query::only) refuses it.
#[derive(Debug)]
pub struct Query {
    given: HashMap<String, String>,
    /// A parameter that is repeated.
    twice: Option<String>,
}

impl<S: Sync> FromRequestParts<S> for Query {
    type Rejection = Infallible;

    async fn from_request_parts(parts: &mut Parts, _: &S) -> Result<Self, Infallible> {
        Ok(Self::parse(parts.uri.query().unwrap_or_default()))
    }
}

impl Query {
    pub(super) fn parse(text: &str) -> Self {
        let (mut given, mut twice) = (HashMap::new(), None);
        for (key, value) in url::form_urlencoded::parse(text.as_bytes()).into_owned() {
            if given.insert(key.clone(), value).is_some() {
                twice = Some(key);
            }
        }
        Self { given, twice }
    }

    fn get(&self, key: &str) -> Option<&str> {
        self.given.get(key).map(|text| text.trim()).filter(|text| !text.is_empty())
    }

    /// Returns warnings about unknown parameters.
    pub fn unknown(&self, known: &[&str]) -> Vec<String> {
        let mut unknown: Vec<&String> = self.given.keys().filter(|key| !known.contains(&key.as_str())).collect();
        unknown.sort_unstable();
        unknown.truncate(10);
        unknown.into_iter().map(|key| format!("unknown query parameter \"{}\" is ignored", excerpt(key))).collect()
    }

    /// Refuses unknown or repeated parameters, where ignoring one would answer another question than the caller's.
    pub fn only(&self, known: &[&str]) -> Result<()> {
        match self.given.keys().filter(|key| !known.contains(&key.as_str())).min() {
            None => match &self.twice {
                None => Ok(()),
                Some(key) => Err(Error::field(excerpt(key), "is given twice")),
            },
            Some(key) => {
                let text = format!("is not a parameter here; {} are", known.join(", "));
                Err(Error::field(excerpt(key), text))
            }
        }
    }

    /// Returns the raw value; a blank one counts as absent.
    pub fn text(&self, key: &str) -> Option<&str> {
        self.get(key)
    }

    /// Returns an id.
    pub fn id<T: FromStr>(&self, key: &str) -> Result<Option<T>> {
        let wrong = |text| Error::field(key, format!("\"{}\" is not an id", excerpt(text)));
        self.get(key).map(|text| text.parse().map_err(|_| wrong(text))).transpose()
    }

    /// Returns `true` or `false`; a parameter without a value is true, an absent one false.
    pub fn flag(&self, key: &str) -> Result<bool> {
        match self.given.get(key).map(|text| text.trim().to_ascii_lowercase()).as_deref() {
            None | Some("false" | "0") => Ok(false),
            Some("" | "true" | "1") => Ok(true),
            Some(other) => Err(Error::field(key, format!("\"{}\" is not true or false", excerpt(other)))),
        }
    }

    /// Returns a whole number of a range.
    pub fn number(&self, key: &str, range: RangeInclusive<u32>) -> Result<Option<u32>> {
        let wrong = |text: &str| {
            let (from, to) = (range.start(), range.end());
            Error::field(key, format!("\"{}\" is not a whole number from {from} to {to}", excerpt(text)))
        };
        self.get(key).map(|text| text.parse().ok().filter(|n| range.contains(n)).ok_or_else(|| wrong(text))).transpose()
    }

    /// Returns a name.
    pub fn name(&self, key: &str) -> Result<Option<Name>> {
        self.get(key).map(|text| super::json::name(key, text)).transpose()
    }

    /// Returns one of an enumeration's values.
    pub fn one_of<T: FromStr<Err = String>>(&self, key: &str) -> Result<Option<T>> {
        tool_connection::one_of(key, self.get(key))
    }
}

/// The variable part of a path.
#[derive(Debug)]
pub struct Segment(String);

impl<S: Send + Sync> FromRequestParts<S> for Segment {
    type Rejection = ApiError;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> ApiResult<Self> {
        match axum::extract::Path::<String>::from_request_parts(parts, state).await {
            Ok(axum::extract::Path(text)) => Ok(Self(text)),
            Err(_) => Err(Error::new(Code::InvalidArgument, "the path is not UTF-8").into()),
        }
    }
}

impl Segment {
    /// Returns it as a name; nothing has an invalid name, so that is not found.
    pub fn name(&self, kind: &str) -> Result<Name> {
        Name::parse(kind, &self.0).map_err(|_| self.not_found(kind))
    }

    /// Returns it as a name for a new resource; an invalid one is the caller's mistake.
    pub fn valid(&self) -> Result<Name> {
        super::json::name("name", &self.0)
    }

    /// Returns it as an id.
    pub fn id<T: FromStr>(&self, kind: &str) -> Result<T> {
        self.0.parse().map_err(|_| self.not_found(kind))
    }

    /// Returns it unchanged.
    pub fn into_text(self) -> String {
        self.0
    }

    fn not_found(&self, kind: &str) -> Error {
        Error::not_found(kind, excerpt(&self.0))
    }
}

/// The variable parts of a path that has `N` of them.
#[derive(Debug)]
pub struct Segments<const N: usize>([Segment; N]);

impl<S: Send + Sync, const N: usize> FromRequestParts<S> for Segments<N> {
    type Rejection = ApiError;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> ApiResult<Self> {
        let unreadable = || Error::new(Code::InvalidArgument, "the path is not UTF-8");
        let found = axum::extract::RawPathParams::from_request_parts(parts, state).await.map_err(|_| unreadable())?;
        let segments: Vec<Segment> = found.iter().map(|(_, text)| Segment(text.to_owned())).collect();
        let segments = segments.try_into().map_err(|_| Error::internal("reading a path", "it has other parameters"))?;
        Ok(Self(segments))
    }
}

impl<const N: usize> Segments<N> {
    /// Returns one of them as a name.
    pub fn name(&self, index: usize, kind: &str) -> Result<Name> {
        self.0.get(index).map_or_else(|| Err(Error::not_found(kind, "")), |segment| segment.name(kind))
    }

    /// Returns one of them unchanged.
    pub fn text(&self, index: usize) -> &str {
        self.0.get(index).map_or("", |segment| &segment.0)
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn parameters_are_typed() {
        let q = Query::parse("strict&yes=TRUE&no=0&bad=maybe&n=5&big=99999&name=a&wrong=A%20b&blank=");
        assert!(q.flag("strict").unwrap() && q.flag("yes").unwrap());
        assert!(!q.flag("no").unwrap() && !q.flag("absent").unwrap());
        assert_eq!(q.flag("bad").unwrap_err().message, "bad: \"maybe\" is not true or false");
        assert_eq!(q.number("n", 1..=10).unwrap(), Some(5));
        assert_eq!((q.number("absent", 1..=10).unwrap(), q.number("blank", 1..=10).unwrap()), (None, None));
        assert_eq!(q.number("big", 1..=10).unwrap_err().message, "big: \"99999\" is not a whole number from 1 to 10");
        assert_eq!(q.name("name").unwrap().unwrap().as_str(), "a");
        assert_eq!(q.name("wrong").unwrap_err().field.as_deref(), Some("wrong"));
    }
}
