//! The body of `POST /api/deploy`: its schema for the API's document and its parser, which makes a
//! [`DeployRequest`](crate::deploy::request::DeployRequest). The parser keeps the paths of members for errors, warns of
//! unknown members and suggests the ones that were meant, which a derived reader does not. A test proves that it knows the
//! members of the schema and no others.

mod parse;
pub mod schema;
#[cfg(test)]
mod tests;
pub mod tools;

pub use parse::parse;
