//! Metrics as services return them: families of samples, as in Prometheus.

/// The kind of a family.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// Only rises, from zero at the process' start.
    Counter,
    /// Rises and falls.
    Gauge,
    /// Buckets, a sum and a count.
    Histogram,
}

impl Kind {
    /// Returns the spelling of the text format.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Counter => "counter",
            Self::Gauge => "gauge",
            Self::Histogram => "histogram",
        }
    }

    /// Parses the spelling of the text format.
    pub fn parse(text: &str) -> Option<Self> {
        [Self::Counter, Self::Gauge, Self::Histogram].into_iter().find(|kind| kind.as_str() == text)
    }
}

/// Samples with the same name.
#[derive(Debug, Clone, PartialEq)]
pub struct Family {
    /// The name, with its unit: `hoistway_build_duration_seconds`.
    pub name: String,
    /// A description in one line.
    pub help: String,
    /// The kind.
    pub kind: Kind,
    /// The samples.
    pub samples: Vec<Sample>,
}

/// One number with its labels.
#[derive(Debug, Clone, PartialEq)]
pub struct Sample {
    /// The suffix of the family's name: empty, or `_bucket`, `_sum`, `_count` of a histogram.
    pub suffix: String,
    /// Label names and values.
    pub labels: Vec<(String, String)>,
    /// The number.
    pub value: f64,
}

/// The metrics of a service, and of its process.
#[derive(Debug, Clone, PartialEq)]
pub struct Metrics {
    /// Identifies the process on its machine, so that services in one process count it once.
    pub process: String,
    /// The resource usage of the process.
    pub of_process: Vec<Family>,
    /// The metrics of the service.
    pub of_service: Vec<Family>,
}
