//! Starts the processes of agents and builds. It does what `hoistway` does when it is started for that, with a fraction
//! of its size: each of these processes begins sooner, and those that stay take less memory.

fn main() -> std::process::ExitCode {
    hoistway_agent::launcher::main()
}
