//! `env`, and the limits of all other variables of the agent's process.

use crate::api::json::Object;
use hoistway_model::{
    Error, Result, Secret, agent::EnvVar, env::platform::is_reserved, error::excerpt, limits::MAX_VARIABLES,
};
use std::collections::HashSet;

/// The size limit in bytes of one `NAME=VALUE` string in Linux, its closing NUL included.
const MAX_VARIABLE: usize = 128 << 10;
/// The size limit in bytes of all variables together, well under that of Linux.
const MAX_TOGETHER: usize = 1 << 20;

/// Returns the user's variables, in order.
pub fn parse(root: &mut Object, warnings: &mut Vec<String>) -> Result<Vec<EnvVar>> {
    let mut names = HashSet::new();
    let mut together = 0;
    let mut vars = Vec::new();
    for mut item in root.objects("env", MAX_VARIABLES)?.unwrap_or_default() {
        let name = item.required("name")?;
        let path = item.path_of("name");
        if !is_variable(&name) {
            let message = "is not a variable's name: letters, digits, '_', '-' and '.', the first no digit";
            return Err(Error::field(path, format!("\"{}\" {message}", excerpt(&name))));
        }
        if is_reserved(&name) {
            return Err(Error::field(path, format!("\"{}\" is reserved for the platform", excerpt(&name))));
        }
        if !names.insert(name.clone()) {
            return Err(Error::field(path, format!("\"{}\" is given twice", excerpt(&name))));
        }
        let path = item.path_of("value");
        let value = item.string("value")?.ok_or_else(|| Error::field(path.as_str(), "is required"))?;
        fits(&path, &name, &value)?;
        together += name.len() + value.len() + 2;
        if together > MAX_TOGETHER {
            return Err(Error::field("env", format!("all variables together have more than {MAX_TOGETHER} bytes")));
        }
        let secret = item.boolean("secret")?;
        item.finish(warnings);
        vars.push(EnvVar { name, value: Secret::new(value), secret });
    }
    Ok(vars)
}

/// Checks that the variable `name` can hold `value`. The error shows nothing of it.
pub fn fits(path: &str, name: &str, value: &str) -> Result<()> {
    if value.contains('\0') {
        return Err(Error::field(path, "contains a NUL character, which no variable can hold"));
    }
    let bytes = name.len() + value.len() + 2;
    if bytes > MAX_VARIABLE {
        let message = format!("{name}=… has {bytes} bytes, {MAX_VARIABLE} is the most that a variable can have");
        return Err(Error::field(path, message));
    }
    Ok(())
}

fn is_variable(name: &str) -> bool {
    !name.starts_with(|c: char| c.is_ascii_digit())
        && name.len() <= 255
        && name.bytes().all(|b| b.is_ascii_alphanumeric() || b"_-.".contains(&b))
}
