//! Variables as JSON: pairs in `env`, and in `secret` the user's explicit choices by name, if there are any.

use super::EnvVar;
use crate::Secret;
use serde::{Deserialize, Deserializer, Serialize, Serializer};
use std::{borrow::Cow, collections::BTreeMap};

#[derive(Serialize, Deserialize)]
struct Stored<'a> {
    env: Vec<(Cow<'a, str>, Cow<'a, Secret>)>,
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    secret: BTreeMap<Cow<'a, str>, bool>,
}

pub fn serialize<S: Serializer>(env: &[EnvVar], serializer: S) -> Result<S::Ok, S::Error> {
    let stored = Stored {
        env: env.iter().map(|var| (var.name.as_str().into(), Cow::Borrowed(&var.value))).collect(),
        secret: env.iter().filter_map(|var| Some((var.name.as_str().into(), var.secret?))).collect(),
    };
    stored.serialize(serializer)
}

pub fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Vec<EnvVar>, D::Error> {
    let Stored { env, secret } = Stored::deserialize(deserializer)?;
    let var = |(name, value): (Cow<'_, str>, Cow<'_, Secret>)| EnvVar {
        secret: secret.get(&name).copied(),
        name: name.into_owned(),
        value: value.into_owned(),
    };
    Ok(env.into_iter().map(var).collect())
}
