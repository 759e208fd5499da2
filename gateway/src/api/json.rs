//! A strict reader of JSON requests: typed access where every error contains the path of the member, `null` is the same
//! as absent, nothing may be given twice, and unknown members are reported at the end.
//!
//! Members are moved out, never copied: a request may be tens of megabytes of source.

use hoistway_model::{
    Code, Error, Money, Name, Result,
    error::{MAX_EXCERPT, excerpt},
};
use serde::de::{DeserializeSeed, Deserializer, Error as _, IgnoredAny, MapAccess, SeqAccess, Visitor};
use serde_json::{Map, Value};
use std::{cell::Cell, fmt};

/// The most values in a request, nested ones included.
const MAX_VALUES: usize = 200_000;
/// The most unknown members that are reported one by one.
const MAX_UNKNOWN: usize = 20;

/// A JSON object of the request, at its path.
#[derive(Debug, Default)]
pub struct Object {
    path: String,
    members: Map<String, Value>,
    known: Vec<&'static str>,
}

impl Object {
    /// Reads a whole request body.
    pub fn parse(body: &[u8]) -> Result<Self> {
        let wrong = |text: String| Error::new(Code::InvalidArgument, text);
        if body.trim_ascii().is_empty() {
            return Err(wrong("the body is empty; a JSON object is expected".into()));
        }
        match unique(body) {
            Ok(Unique(Value::Object(members))) => Ok(Self { path: String::new(), members, known: Vec::new() }),
            Ok(Unique(other)) => Err(wrong(format!("the body must be a JSON object, not {}", kind(&other)))),
            Err(e) => Err(wrong(format!("the body is not valid JSON: {e}"))),
        }
    }

    /// Returns the path of a member.
    pub fn path_of(&self, key: &str) -> String {
        if self.path.is_empty() { key.to_owned() } else { format!("{}.{key}", self.path) }
    }

    /// Returns the path of this object; empty for the body itself.
    pub fn path(&self) -> &str {
        &self.path
    }

    /// Takes a member out; `null` counts as absent.
    pub fn take(&mut self, key: &'static str) -> Option<Value> {
        self.known.push(key);
        self.members.remove(key).filter(|value| !value.is_null())
    }

    /// Whether a member exists that is not `null`.
    pub fn has(&self, key: &str) -> bool {
        self.members.get(key).is_some_and(|value| !value.is_null())
    }

    /// Takes a string, which may be empty.
    pub fn string(&mut self, key: &'static str) -> Result<Option<String>> {
        self.take(key).map(|value| string(value, || self.path_of(key))).transpose()
    }

    /// Takes a string; a blank one counts as absent.
    pub fn text(&mut self, key: &'static str) -> Result<Option<String>> {
        Ok(self.string(key)?.filter(|text| !text.trim().is_empty()))
    }

    /// Takes a required string that is not blank.
    pub fn required(&mut self, key: &'static str) -> Result<String> {
        self.text(key)?.ok_or_else(|| Error::field(self.path_of(key), "is required"))
    }

    /// Takes an amount of money, a number or exact text.
    pub fn money(&mut self, key: &'static str) -> Result<Option<Money>> {
        let path = self.path_of(key);
        let text = |value| match value {
            Value::String(text) => text,
            Value::Number(number) => number.to_string(),
            // Not an amount, and refused as such.
            _ => String::new(),
        };
        self.take(key).map(|value| Money::parse(&path, text(value).trim())).transpose()
    }

    /// Takes an integer.
    pub fn integer(&mut self, key: &'static str) -> Result<Option<i64>> {
        self.take(key)
            .map(|value| {
                value.as_i64().ok_or_else(|| {
                    let given = if value.is_number() { value.to_string() } else { kind(&value).to_owned() };
                    Error::field(self.path_of(key), format!("must be a whole number, not {given}"))
                })
            })
            .transpose()
    }

    /// Takes a boolean.
    pub fn boolean(&mut self, key: &'static str) -> Result<Option<bool>> {
        self.take(key)
            .map(|value| {
                let wrong = || Error::field(self.path_of(key), format!("must be true or false, not {}", kind(&value)));
                value.as_bool().ok_or_else(wrong)
            })
            .transpose()
    }

    /// Takes an object.
    pub fn object(&mut self, key: &'static str) -> Result<Option<Object>> {
        self.take(key).map(|value| object(value, self.path_of(key))).transpose()
    }

    /// A list of at most `max` objects.
    pub fn objects(&mut self, key: &'static str, max: usize) -> Result<Option<Vec<Object>>> {
        let path = self.path_of(key);
        let each = |(i, value)| object(value, format!("{path}[{i}]"));
        self.list(key, max)?.map(|items| items.into_iter().enumerate().map(each).collect()).transpose()
    }

    /// A list of at most `max` strings.
    pub fn strings(&mut self, key: &'static str, max: usize) -> Result<Option<Vec<String>>> {
        let path = self.path_of(key);
        let each = |(i, value)| string(value, || format!("{path}[{i}]"));
        self.list(key, max)?.map(|items| items.into_iter().enumerate().map(each).collect()).transpose()
    }

    fn list(&mut self, key: &'static str, max: usize) -> Result<Option<Vec<Value>>> {
        match self.take(key) {
            None => Ok(None),
            Some(Value::Array(items)) if items.len() <= max => Ok(Some(items)),
            Some(Value::Array(items)) => Err(too_many(self.path_of(key), items.len(), max)),
            Some(other) => Err(Error::field(self.path_of(key), format!("must be a list, not {}", kind(&other)))),
        }
    }

    /// Takes one member out, as an object with that member alone at the same path; `None` if it is absent.
    pub fn only(&mut self, key: &'static str) -> Option<Object> {
        let value = self.take(key)?;
        let members = Map::from_iter([(key.to_owned(), value)]);
        Some(Object { path: self.path.clone(), members, known: Vec::new() })
    }

    /// Whether it has no members.
    pub fn is_empty(&self) -> bool {
        self.members.is_empty()
    }

    /// Returns all members unchanged.
    pub fn into_values(self) -> Map<String, Value> {
        self.members
    }

    /// Returns all members as strings, each with the path `PATH["KEY"]`.
    pub fn into_strings(self) -> Result<Vec<(String, String)>> {
        let path = self.path;
        self.members
            .into_iter()
            .map(|(key, value)| {
                let text = string(value, || format!("{path}[\"{}\"]", excerpt(&key)))?;
                Ok((key, text))
            })
            .collect()
    }

    /// Everything in it as objects, at most `max`, each under the path `PATH["KEY"]`.
    pub fn into_objects(self, max: usize) -> Result<Vec<(String, Object)>> {
        let path = self.path;
        if self.members.len() > max {
            let text = format!("{} members are too many, {max} is the limit", self.members.len());
            return Err(Error::field(path, text));
        }
        let each = |(key, value): (String, Value)| {
            let object = object(value, format!("{path}[\"{}\"]", excerpt(&key)))?;
            Ok((key, object))
        };
        self.members.into_iter().map(each).collect()
    }

    /// Warns about unknown members, with suggestions for misspelt ones.
    pub fn finish(self, warnings: &mut Vec<String>) {
        let unknown: Vec<_> = self.unknown().collect();
        for key in unknown.iter().take(MAX_UNKNOWN) {
            let hint = self.hint(key);
            warnings.push(format!("unknown field \"{}\" is ignored{hint}", excerpt(&self.path_of(key))));
        }
        if let Some(more) = unknown.len().checked_sub(MAX_UNKNOWN).filter(|more| *more > 0) {
            warnings.push(format!("{more} more unknown fields are ignored"));
        }
    }

    /// Refuses unknown members, where ignoring one would have an unintended effect.
    pub fn refuse_unknown(self) -> Result<()> {
        match self.unknown().next() {
            None => Ok(()),
            Some(key) => Err(Error::field(self.path_of(&excerpt(key)), format!("unknown field{}", self.hint(key)))),
        }
    }

    fn unknown(&self) -> impl Iterator<Item = &String> {
        self.members.iter().filter(|(_, value)| !value.is_null()).map(|(key, _)| key)
    }

    fn hint(&self, key: &str) -> String {
        match did_you_mean(key, &self.known) {
            Some(meant) => format!("; did you mean \"{}\"?", self.path_of(meant)),
            None => String::new(),
        }
    }
}

/// The error for a list of more than `max` elements.
pub fn too_many(path: impl Into<String>, count: usize, max: usize) -> Error {
    Error::field(path, format!("{count} elements are too many, {max} is the limit"))
}

/// Checks that a whole request body is a JSON object, without storing it.
pub fn must_be_object(body: &[u8]) -> Result<()> {
    let wrong = |text: String| Err(Error::new(Code::InvalidArgument, text));
    if body.trim_ascii().is_empty() {
        return wrong("the body is empty; a JSON object is expected".into());
    }
    let read = || {
        let mut json = serde_json::Deserializer::from_slice(body);
        let kind = json.deserialize_any(Kind)?;
        json.end().map(|()| kind)
    };
    match read() {
        Ok("an object") => Ok(()),
        Ok(kind) => wrong(format!("the body must be a JSON object, not {kind}")),
        Err(e) => wrong(format!("the body is not valid JSON: {e}")),
    }
}

fn string(value: Value, path: impl Fn() -> String) -> Result<String> {
    match value {
        Value::String(text) => Ok(text),
        other => Err(Error::field(path(), format!("must be a string, not {}", kind(&other)))),
    }
}

fn object(value: Value, path: String) -> Result<Object> {
    match value {
        Value::Object(members) => Ok(Object { path, members, known: Vec::new() }),
        other => Err(Error::field(path, format!("must be an object, not {}", kind(&other)))),
    }
}

/// Returns the name of a value's type for errors.
pub fn kind(value: &Value) -> &'static str {
    match value {
        Value::Null => "null",
        Value::Bool(_) => "a boolean",
        Value::Number(_) => "a number",
        Value::String(_) => "a string",
        Value::Array(_) => "a list",
        Value::Object(_) => "an object",
    }
}

/// Returns the known member that `key` resembles, ignoring letter case and separators.
pub fn did_you_mean(key: &str, known: &[&'static str]) -> Option<&'static str> {
    let plain = |text: &str| -> String {
        text.chars().filter(char::is_ascii_alphanumeric).map(|c| c.to_ascii_lowercase()).take(64).collect()
    };
    let given = plain(key);
    known
        .iter()
        .map(|known| (strsim::damerau_levenshtein(&given, &plain(known)), *known))
        .filter(|(distance, known)| *distance <= 1 + known.len() / 5)
        .min_by_key(|(distance, _)| *distance)
        .map(|(_, known)| known)
}

/// Parses a name; the error quotes only its beginning.
pub fn name(path: &str, text: &str) -> Result<Name> {
    let end = text.char_indices().nth(MAX_EXCERPT).map_or(text.len(), |(at, _)| at);
    // The cut text is still longer than any name, so it is refused all the same.
    Name::parse(path, &text[..end])
}

/// Returns an error about one member with the message that the contract specifies.
pub fn complaint(field: &str, message: impl Into<String>) -> Error {
    let mut error = Error::new(Code::InvalidArgument, message);
    error.field = Some(field.to_owned());
    error
}

/// Whether the value of an unsupported member requests anything.
pub fn has_value(value: &Value) -> bool {
    match value {
        Value::Null => false,
        Value::String(text) => !text.trim().is_empty(),
        Value::Array(items) => !items.is_empty(),
        Value::Object(members) => !members.is_empty(),
        Value::Bool(_) | Value::Number(_) => true,
    }
}

/// A JSON value in which no object has a member twice: one of the two would have to be ignored silently.
struct Unique(Value);

fn unique(body: &[u8]) -> serde_json::Result<Unique> {
    let (mut json, left) = (serde_json::Deserializer::from_slice(body), Cell::new(MAX_VALUES));
    let value = Values(&left).deserialize(&mut json)?;
    json.end().map(|()| value)
}

/// Reads a value, and counts it against the values that may still come: a value takes more memory than its text.
struct Values<'a>(&'a Cell<usize>);

impl<'de> DeserializeSeed<'de> for Values<'_> {
    type Value = Unique;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<Unique, D::Error> {
        struct Any<'a>(&'a Cell<usize>);

        impl<'de> Visitor<'de> for Any<'_> {
            type Value = Unique;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a JSON value")
            }

            fn visit_unit<E>(self) -> Result<Unique, E> {
                Ok(Unique(Value::Null))
            }

            fn visit_bool<E>(self, value: bool) -> Result<Unique, E> {
                Ok(Unique(value.into()))
            }

            fn visit_i64<E>(self, value: i64) -> Result<Unique, E> {
                Ok(Unique(value.into()))
            }

            fn visit_u64<E>(self, value: u64) -> Result<Unique, E> {
                Ok(Unique(value.into()))
            }

            fn visit_f64<E>(self, value: f64) -> Result<Unique, E> {
                Ok(Unique(value.into()))
            }

            fn visit_str<E>(self, value: &str) -> Result<Unique, E> {
                Ok(Unique(value.into()))
            }

            fn visit_string<E>(self, value: String) -> Result<Unique, E> {
                Ok(Unique(value.into()))
            }

            fn visit_seq<A: SeqAccess<'de>>(self, mut items: A) -> Result<Unique, A::Error> {
                let mut list = Vec::new();
                while let Some(Unique(value)) = items.next_element_seed(Values(self.0))? {
                    list.push(value);
                }
                Ok(Unique(Value::Array(list)))
            }

            fn visit_map<A: MapAccess<'de>>(self, mut items: A) -> Result<Unique, A::Error> {
                let mut members = Map::new();
                while let Some(key) = items.next_key::<String>()? {
                    let Unique(value) = items.next_value_seed(Values(self.0))?;
                    if members.contains_key(&key) {
                        return Err(A::Error::custom(format_args!("\"{}\" is given twice", excerpt(&key))));
                    }
                    members.insert(key, value);
                }
                Ok(Unique(Value::Object(members)))
            }
        }

        let left = self.0.get().checked_sub(1);
        self.0.set(left.ok_or_else(|| D::Error::custom(format_args!("it has more than {MAX_VALUES} values")))?);
        deserializer.deserialize_any(Any(self.0))
    }
}

/// The type of a value, as [`kind`] names it. The value is read to its end.
struct Kind;

impl<'de> Visitor<'de> for Kind {
    type Value = &'static str;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a JSON value")
    }

    fn visit_unit<E>(self) -> Result<&'static str, E> {
        Ok("null")
    }

    fn visit_bool<E>(self, _: bool) -> Result<&'static str, E> {
        Ok("a boolean")
    }

    fn visit_i64<E>(self, _: i64) -> Result<&'static str, E> {
        Ok("a number")
    }

    fn visit_u64<E>(self, _: u64) -> Result<&'static str, E> {
        Ok("a number")
    }

    fn visit_f64<E>(self, _: f64) -> Result<&'static str, E> {
        Ok("a number")
    }

    fn visit_str<E>(self, _: &str) -> Result<&'static str, E> {
        Ok("a string")
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut items: A) -> Result<&'static str, A::Error> {
        while items.next_element::<IgnoredAny>()?.is_some() {}
        Ok("a list")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut members: A) -> Result<&'static str, A::Error> {
        while members.next_entry::<IgnoredAny, IgnoredAny>()?.is_some() {}
        Ok("an object")
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    fn refused(body: &str) -> String {
        Object::parse(body.as_bytes()).unwrap_err().message
    }

    #[test]
    fn what_is_no_object_is_refused_with_its_place() {
        assert_eq!(refused(" \n"), "the body is empty; a JSON object is expected");
        assert_eq!(refused("[1]"), "the body must be a JSON object, not a list");
        assert_eq!(refused("null"), "the body must be a JSON object, not null");
        assert_eq!(refused("{nope"), "the body is not valid JSON: key must be a string at line 1 column 2");
        assert_eq!(refused("{} x"), "the body is not valid JSON: trailing characters at line 1 column 4");
        assert!(refused("{\"a\": \"\\ud800\"}").starts_with("the body is not valid JSON: "));
        assert!(refused(&"{\"a\":".repeat(500)).contains("recursion limit exceeded"));
        assert!(Object::parse(b"{\"a\": \"\xff\"}").is_err());
    }

    #[test]
    fn nothing_is_given_twice() {
        let text = "the body is not valid JSON: \"b\" is given twice at line 1 column 23";
        assert_eq!(refused("{\"a\": [{\"b\": 1, \"b\": 2}]}"), text);
    }

    #[test]
    fn wrong_types_name_their_path() {
        let body =
            br#"{"s": 5, "n": "1", "f": 1.5, "o": [], "l": {}, "deep": [{"x": 1}, {"x": {}}], "t": ["a", null]}"#;
        let mut o = Object::parse(body).unwrap();
        let text = |e: Error| {
            assert!(e.message.starts_with(e.field.as_deref().unwrap()), "{e}");
            e.message
        };
        assert_eq!(text(o.string("s").unwrap_err()), "s: must be a string, not a number");
        assert_eq!(text(o.integer("n").unwrap_err()), "n: must be a whole number, not a string");
        assert_eq!(text(o.integer("f").unwrap_err()), "f: must be a whole number, not 1.5");
        assert_eq!(text(o.object("o").unwrap_err()), "o: must be an object, not a list");
        assert_eq!(text(o.objects("l", 10).unwrap_err()), "l: must be a list, not an object");
        assert_eq!(text(o.strings("t", 10).unwrap_err()), "t[1]: must be a string, not null");
        let mut deep = o.objects("deep", 10).unwrap().unwrap();
        assert_eq!(deep[0].integer("x").unwrap(), Some(1));
        assert_eq!(text(deep[1].string("x").unwrap_err()), "deep[1].x: must be a string, not an object");
        assert_eq!(text(deep[1].required("y").unwrap_err()), "deep[1].y: is required");
    }

    #[test]
    fn null_is_absent_and_blank_says_nothing() {
        let mut o = Object::parse(br#"{"a": null, "b": " \t", "c": " x "}"#).unwrap();
        assert_eq!(o.string("a").unwrap(), None);
        assert_eq!(o.text("b").unwrap(), None);
        assert_eq!(o.text("c").unwrap().as_deref(), Some(" x "));
        let mut warnings = Vec::new();
        o.finish(&mut warnings);
        assert!(warnings.is_empty());
    }

    #[test]
    fn unknown_members_are_told_with_what_they_may_mean() {
        let mut o = Object::parse(br#"{"requirments": 1, "sourceFiles": 2, "zzz": 3, "nothing": null}"#).unwrap();
        let _ = (o.take("requirements"), o.take("source_files"), o.take("image"));
        let mut warnings = Vec::new();
        o.finish(&mut warnings);
        assert_eq!(
            warnings,
            [
                "unknown field \"requirments\" is ignored; did you mean \"requirements\"?",
                "unknown field \"sourceFiles\" is ignored; did you mean \"source_files\"?",
                "unknown field \"zzz\" is ignored",
            ]
        );
    }

    #[test]
    fn errors_repeat_little() {
        assert_eq!(excerpt("a\n\"b"), "a\\n\\\"b");
        assert_eq!(excerpt(&"ä".repeat(1000)).chars().count(), MAX_EXCERPT + 1);
        assert!(name("n", &"ä".repeat(1 << 20)).unwrap_err().message.len() < 1000);
        assert!(name("n", &"a".repeat(64)).is_err());
    }
}
