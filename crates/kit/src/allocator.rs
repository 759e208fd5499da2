//! Memory that is free goes back to the system. glibc keeps freed blocks of up to 32 MiB for itself once it has seen such
//! sizes: a burst of large requests would be held by an idle process for ever.

use std::{env, os::unix::process::CommandExt, process::Command};

/// What glibc reads when a process begins: from so many bytes on, a block is the system's again as soon as it is freed.
const VARIABLE: &str = "MALLOC_MMAP_THRESHOLD_";
const LARGE: &str = "1048576";

/// Begins this process anew with the setting, unless it has it (or one of the operator's) already. Called first of all in
/// programs that serve: there is no other way to it without code that the compiler cannot check. Where it is not possible
/// the process goes on as it is.
pub fn give_back_large_blocks() {
    if !cfg!(target_env = "gnu") || env::var_os(VARIABLE).is_some() {
        return;
    }
    let mut arguments = env::args_os();
    let name = arguments.next();
    if let (Ok(program), Some(name)) = (env::current_exe(), name) {
        // It returns only when it has failed.
        let _ = Command::new(program).arg0(name).args(arguments).env(VARIABLE, LARGE).exec();
    }
}
