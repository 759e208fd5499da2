//! The tables as sea-orm has them.

pub(super) mod build;
pub(super) mod layer;
pub(super) mod layer_set;
pub(super) mod lock;
pub(super) mod package;
