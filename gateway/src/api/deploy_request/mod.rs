//! The body of `POST /api/deploy`: its schema for the API's document and its parser, which makes a
//! [`DeployRequest`](crate::deploy::request::DeployRequest). The parser keeps the paths of members for errors, warns of
//! unknown members and suggests the ones that were meant, which a derived reader does not. A test compares it with
//! every member that the document names.

mod parse;
pub mod schema;
#[cfg(test)]
mod tests;
pub mod tools;

pub use parse::parse;
