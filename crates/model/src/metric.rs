//! Measurements as services give them to whoever shows them: families of samples, as Prometheus has them.

/// What the samples of a family are.
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
    /// The spelling of the text format.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Counter => "counter",
            Self::Gauge => "gauge",
            Self::Histogram => "histogram",
        }
    }

    /// Reads the spelling of the text format.
    pub fn parse(text: &str) -> Option<Self> {
        [Self::Counter, Self::Gauge, Self::Histogram].into_iter().find(|kind| kind.as_str() == text)
    }
}

/// Measurements of one name.
#[derive(Debug, Clone, PartialEq)]
pub struct Family {
    /// The name, with its unit: `hoistway_build_duration_seconds`.
    pub name: String,
    /// One line about it.
    pub help: String,
    /// What it is.
    pub kind: Kind,
    /// The samples.
    pub samples: Vec<Sample>,
}

/// One number with its labels.
#[derive(Debug, Clone, PartialEq)]
pub struct Sample {
    /// What follows the family's name: empty, or `_bucket`, `_sum`, `_count` of a histogram.
    pub suffix: String,
    /// Label names and values.
    pub labels: Vec<(String, String)>,
    /// The number.
    pub value: f64,
}

/// What a service measured, and which process it is in.
#[derive(Debug, Clone, PartialEq)]
pub struct Metrics {
    /// Names the process on its machine, so that services in one process count it once.
    pub process: String,
    /// What the process itself uses.
    pub of_process: Vec<Family>,
    /// What the service measured.
    pub of_service: Vec<Family>,
}
