//! Names the source of the launcher, so that one of another build is recognised.

#[path = "../../crates/confine/source_digest.rs"]
mod source_digest;

fn main() -> std::io::Result<()> {
    source_digest::set("LAUNCHER_SOURCE", "src/launcher")
}
