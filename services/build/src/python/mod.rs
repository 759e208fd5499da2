//! Everything that has to do with Python at build time: the host's interpreter, what source files import, and the
//! packages that they need. No user code runs here: source is parsed, and only wheels are installed.

pub mod analyser;
pub mod imports;
pub mod installed;
pub mod interpreter;
mod known_distributions;
mod libc;
mod process;
mod reachable_files;
pub mod sandbox;
mod standard_library;
mod target;
pub mod uv;
mod wheel_alternatives;

pub use analyser::{Analyser, FileImports, Import, Unread};
pub use interpreter::Interpreter;
pub use libc::Libc;
pub use sandbox::Sandbox;
pub use target::Target;
pub use uv::{CacheUse, Indexes, Lock, Uv, is_gone, is_unsatisfiable};
