//! Checks JSON values against the schemas of an OpenAPI document.

use boon::{Compiler, Draft, Schemas};
use serde_json::Value;

/// The address of the document for the compiler; nothing is fetched from it.
const ADDRESS: &str = "http://document/openapi.json";

/// The schemas of one OpenAPI 3.1 document, compiled when they are first used.
pub struct DocumentSchemas {
    compiler: Compiler,
    schemas: Schemas,
}

impl DocumentSchemas {
    /// Takes the schemas of `document`.
    ///
    /// # Panics
    /// If `document` cannot be a schema resource.
    pub fn new(document: Value) -> Self {
        let mut compiler = Compiler::new();
        compiler.set_default_draft(Draft::V2020_12);
        let added = compiler.add_resource(ADDRESS, document);
        assert!(added.is_ok(), "the document is not a schema resource: {added:?}");
        Self { compiler, schemas: Schemas::new() }
    }

    /// Checks `value` against the schema at the JSON pointer `at` of the document.
    ///
    /// # Panics
    /// If the value does not match, or `at` leads to no valid schema; the message has `at`, the fault and the value.
    pub fn check(&mut self, at: &str, value: &Value) {
        let schema = self.compiler.compile(&format!("{ADDRESS}#{at}"), &mut self.schemas);
        let schema = schema.unwrap_or_else(|e| panic!("{at} is no schema: {e:#}"));
        self.schemas.validate(value, schema).unwrap_or_else(|e| panic!("{at}: {e:#}\n{value:#}"));
    }
}
