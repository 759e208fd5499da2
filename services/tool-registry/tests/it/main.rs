//! The tool registry seen from outside: every rule of the trait, called directly and over gRPC, and the echo tool.
#![allow(clippy::unwrap_used, missing_docs)]

mod bindings;
mod credentials;
mod echo;
mod grpc;
mod lists;
mod process;
mod providers;
mod test_registry;
mod tools;
mod undo;
mod updates;

/// Runs each case on the service itself and on a client of it.
macro_rules! both_ways {
    ($($case:ident)*) => {
        mod direct {
            $(
                #[tokio::test]
                async fn $case() {
                    super::$case(crate::test_registry::TestRegistry::direct().await).await;
                }
            )*
        }
        mod over_grpc {
            $(
                #[tokio::test]
                async fn $case() {
                    super::$case(crate::test_registry::TestRegistry::over_grpc().await).await;
                }
            )*
        }
    };
}
pub(crate) use both_ways;
