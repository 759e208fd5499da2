//! Metrics of a process and of its services.

use super::required;
use crate::common::v1 as pb;
use hoistway_model::{
    Error, Result,
    metric::{Family, Kind, Metrics, Sample},
};

impl From<Family> for pb::MetricFamily {
    fn from(f: Family) -> Self {
        let samples = f.samples.into_iter().map(|s| pb::MetricSample {
            suffix: s.suffix,
            labels: s.labels.into_iter().map(|(name, value)| pb::MetricLabel { name, value }).collect(),
            value: s.value,
        });
        Self { name: f.name, help: f.help, kind: f.kind.as_str().into(), samples: samples.collect() }
    }
}

impl TryFrom<pb::MetricFamily> for Family {
    type Error = Error;

    fn try_from(f: pb::MetricFamily) -> Result<Self> {
        let samples = f.samples.into_iter().map(|s| Sample {
            suffix: s.suffix,
            labels: s.labels.into_iter().map(|l| (l.name, l.value)).collect(),
            value: s.value,
        });
        Ok(Self {
            kind: required("kind", Kind::parse(&f.kind))?,
            samples: samples.collect(),
            name: f.name,
            help: f.help,
        })
    }
}

impl From<Metrics> for pb::Metrics {
    fn from(m: Metrics) -> Self {
        Self {
            process: m.process,
            of_process: m.of_process.into_iter().map(Into::into).collect(),
            of_service: m.of_service.into_iter().map(Into::into).collect(),
        }
    }
}

impl TryFrom<pb::Metrics> for Metrics {
    type Error = Error;

    fn try_from(m: pb::Metrics) -> Result<Self> {
        Ok(Self {
            process: m.process,
            of_process: m.of_process.into_iter().map(TryInto::try_into).collect::<Result<_>>()?,
            of_service: m.of_service.into_iter().map(TryInto::try_into).collect::<Result<_>>()?,
        })
    }
}
