//! Ids: UUIDv7, so that they sort by creation time. They are generated before the call that uses them.

use serde::{Deserialize, Serialize};
use std::{fmt, str::FromStr};
use uuid::Uuid;

macro_rules! id {
    ($(#[$doc:meta])* $name:ident) => {
        $(#[$doc])*
        #[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
        #[serde(transparent)]
        pub struct $name(Uuid);

        impl $name {
            /// Generates a new id from the current time.
            pub fn mint() -> Self {
                Self(Uuid::now_v7())
            }

            /// Returns the 32 hexadecimal digits used in file names.
            pub fn simple(&self) -> String {
                self.0.simple().to_string()
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                self.0.fmt(f)
            }
        }

        impl FromStr for $name {
            type Err = crate::Error;

            fn from_str(text: &str) -> Result<Self, crate::Error> {
                Uuid::parse_str(text)
                    .map(Self)
                    .map_err(|_| crate::Error::new(crate::Code::InvalidArgument, format!("\"{text}\" is not an id")))
            }
        }
    };
}

id!(
    /// One accepted `POST /api/deploy`.
    DeploymentId
);
id!(
    /// One mutating call between services, the same for every retry of it.
    OperationId
);
id!(
    /// One immutable specification of an agent: image, environment, tools.
    RevisionId
);
id!(
    /// One run of the build service for one request; the public `build-<hex>` is derived from its result.
    BuildAttemptId
);
id!(
    /// One API key that was created through the API.
    KeyId
);
id!(
    /// One entry of the audit log.
    AuditId
);
