//! The gRPC API of Hoistway's services: generated code, and in [`convert`] the only place that converts messages to the
//! model's records and back.

pub mod convert;

/// Package `hoistway.common`.
pub mod common {
    /// Version 1.
    #[allow(missing_docs, clippy::all)]
    pub mod v1 {
        tonic::include_proto!("hoistway.common.v1");
    }
}

/// Package `hoistway.tools`.
pub mod tools {
    /// Version 1.
    #[allow(missing_docs, clippy::all)]
    pub mod v1 {
        tonic::include_proto!("hoistway.tools.v1");
    }
}

/// Package `hoistway.builds`.
pub mod builds {
    /// Version 1.
    #[allow(missing_docs, clippy::all)]
    pub mod v1 {
        tonic::include_proto!("hoistway.builds.v1");
    }
}

/// Package `hoistway.agents`.
pub mod agents {
    /// Version 1.
    #[allow(missing_docs, clippy::all)]
    pub mod v1 {
        tonic::include_proto!("hoistway.agents.v1");
    }
}

/// Package `hoistway.egress`.
pub mod egress {
    /// Version 1.
    #[allow(missing_docs, clippy::all)]
    pub mod v1 {
        tonic::include_proto!("hoistway.egress.v1");
    }
}

/// The encoded `FileDescriptorSet` of all services, for reflection.
pub const DESCRIPTORS: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/descriptors.bin"));
