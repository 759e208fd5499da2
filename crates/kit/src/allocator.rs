//! Returns freed memory to the system. glibc retains freed blocks of up to 32 MiB once it has allocated such sizes, so
//! an idle process would hold the memory of a burst of large requests forever.

use std::{env, os::unix::process::CommandExt, process::Command};

/// The variable that glibc reads at start: blocks of at least this many bytes go back to the system as soon as they are
/// freed.
const VARIABLE: &str = "MALLOC_MMAP_THRESHOLD_";
const LARGE: &str = "1048576";

/// Re-executes this process with the setting, unless it or the operator's own value is set already. Servers call it
/// first: the alternative is code that the compiler cannot check. Where it is not possible, the process continues
/// unchanged.
pub fn give_back_large_blocks() {
    if !cfg!(target_env = "gnu") || env::var_os(VARIABLE).is_some() {
        return;
    }
    let mut arguments = env::args_os();
    let name = arguments.next();
    if let (Ok(program), Some(name)) = (env::current_exe(), name) {
        // `exec` returns only on failure.
        let _ = Command::new(program).arg0(name).args(arguments).env(VARIABLE, LARGE).exec();
    }
}
