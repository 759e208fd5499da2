//! The build service: source to OCI image, and the embedded registry that holds the images.

pub mod layer;
pub mod registry;
