//! Metrics and their Prometheus text format. Families are values that their owner keeps; a scrape reads them.

use hoistway_model::metric::{Family, Kind, Sample};
use std::{
    collections::BTreeMap,
    fmt::Write,
    io,
    path::Path,
    sync::{Mutex, MutexGuard, PoisonError},
    time::Duration,
};

/// The most series of one family; further ones are counted under the label value `other`.
const MAX_SERIES: usize = 2_000;
/// The upper bounds of histogram buckets, in seconds.
const SECONDS: [f64; 14] = [0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 300.0];

/// The content type of [`text`].
pub const CONTENT_TYPE: &str = "text/plain; version=0.0.4; charset=utf-8";

type Series<T> = Mutex<BTreeMap<Vec<String>, T>>;

/// The name, the help and the label names of a family.
#[derive(Debug, Clone, Copy)]
struct Heading {
    name: &'static str,
    help: &'static str,
    labels: &'static [&'static str],
}

impl Heading {
    fn family(&self, kind: Kind, samples: Vec<Sample>) -> Family {
        Family { name: self.name.to_owned(), help: self.help.to_owned(), kind, samples }
    }

    fn labels(&self, values: &[String]) -> Vec<(String, String)> {
        self.labels.iter().map(|name| (*name).to_owned()).zip(values.iter().cloned()).collect()
    }
}

fn lock<T>(series: &Series<T>) -> MutexGuard<'_, BTreeMap<Vec<String>, T>> {
    series.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Returns the series of these label values, or the overflow series at the limit.
fn series<'a, T: Default>(map: &'a mut BTreeMap<Vec<String>, T>, values: &[&str]) -> &'a mut T {
    let mut key: Vec<String> = values.iter().map(|value| (*value).to_owned()).collect();
    if map.len() >= MAX_SERIES && !map.contains_key(&key) {
        key.iter_mut().for_each(|value| "other".clone_into(value));
    }
    map.entry(key).or_default()
}

/// A counter for each combination of label values.
#[derive(Debug)]
pub struct Counter {
    heading: Heading,
    series: Series<f64>,
}

impl Counter {
    /// Creates a counter; its name ends in `_total`.
    pub const fn new(name: &'static str, help: &'static str, labels: &'static [&'static str]) -> Self {
        Self { heading: Heading { name, help, labels }, series: Mutex::new(BTreeMap::new()) }
    }

    /// Adds one.
    pub fn inc(&self, labels: &[&str]) {
        self.add(labels, 1.0);
    }

    /// Adds `amount`, which is not negative.
    pub fn add(&self, labels: &[&str], amount: f64) {
        *series(&mut lock(&self.series), labels) += amount;
    }

    /// Removes the series whose first label has this value.
    pub fn forget(&self, first: &str) {
        self.retain(|value| value != first);
    }

    /// Removes the series whose first label has a value that `keep` rejects.
    pub fn retain(&self, keep: impl Fn(&str) -> bool) {
        lock(&self.series).retain(|labels, _| labels.first().is_none_or(|value| keep(value)));
    }

    /// Returns the current family.
    pub fn family(&self) -> Family {
        let map = lock(&self.series);
        let sample = |(values, value): (&Vec<String>, &f64)| Sample {
            suffix: String::new(),
            labels: self.heading.labels(values),
            value: *value,
        };
        self.heading.family(Kind::Counter, map.iter().map(sample).collect())
    }
}

/// A histogram of seconds for each combination of label values.
#[derive(Debug)]
pub struct Histogram {
    heading: Heading,
    series: Series<Buckets>,
}

#[derive(Debug, Default)]
struct Buckets {
    counts: [u64; SECONDS.len()],
    count: u64,
    sum: f64,
}

impl Histogram {
    /// Creates a histogram; its name ends in `_seconds`.
    pub const fn new(name: &'static str, help: &'static str, labels: &'static [&'static str]) -> Self {
        Self { heading: Heading { name, help, labels }, series: Mutex::new(BTreeMap::new()) }
    }

    /// Records one duration.
    pub fn observe(&self, labels: &[&str], duration: Duration) {
        let seconds = duration.as_secs_f64();
        let mut map = lock(&self.series);
        let buckets = series(&mut map, labels);
        if let Some(bucket) = SECONDS.iter().position(|bound| seconds <= *bound) {
            buckets.counts[bucket] += 1;
        }
        buckets.count += 1;
        buckets.sum += seconds;
    }

    /// Removes the series whose first label has this value.
    pub fn forget(&self, first: &str) {
        self.retain(|value| value != first);
    }

    /// Removes the series whose first label has a value that `keep` rejects.
    pub fn retain(&self, keep: impl Fn(&str) -> bool) {
        lock(&self.series).retain(|labels, _| labels.first().is_none_or(|value| keep(value)));
    }

    /// Returns the current family.
    pub fn family(&self) -> Family {
        let map = lock(&self.series);
        let mut samples = Vec::with_capacity(map.len() * (SECONDS.len() + 3));
        for (values, buckets) in map.iter() {
            let labels = self.heading.labels(values);
            let mut below = 0;
            let bounds = SECONDS.iter().map(f64::to_string).zip(buckets.counts);
            for (bound, count) in
                bounds.chain([("+Inf".to_owned(), buckets.count - buckets.counts.iter().sum::<u64>())])
            {
                below += count;
                let mut labels = labels.clone();
                labels.push(("le".to_owned(), bound));
                samples.push(Sample { suffix: "_bucket".to_owned(), labels, value: below as f64 });
            }
            samples.push(Sample { suffix: "_sum".to_owned(), labels: labels.clone(), value: buckets.sum });
            samples.push(Sample { suffix: "_count".to_owned(), labels, value: buckets.count as f64 });
        }
        self.heading.family(Kind::Histogram, samples)
    }
}

/// Returns a family of values that are read at scrape time.
pub fn family<'a, const N: usize>(
    kind: Kind,
    name: &str,
    help: &str,
    samples: impl IntoIterator<Item = ([(&'a str, String); N], f64)>,
) -> Family {
    let sample = |(labels, value): ([(&str, String); N], f64)| Sample {
        suffix: String::new(),
        labels: labels.map(|(name, value)| (name.to_owned(), value)).into(),
        value,
    };
    Family { name: name.to_owned(), help: help.to_owned(), kind, samples: samples.into_iter().map(sample).collect() }
}

/// Returns the size of a service's database in bytes; no sample if it is not known.
pub fn database(service: &str, size: Option<u64>) -> Family {
    let help = "Size of a service's tables with their indexes, or of its SQLite file with the write-ahead log.";
    let sample = size.map(|size| ([("service", service.to_owned())], size as f64));
    family(Kind::Gauge, "hoistway_database_size_bytes", help, sample)
}

/// Returns the free space and the size of the disk with a service's directory, as far as they are known. Reads the file
/// system: call it off the runtime's threads.
pub fn disk(service: &str, directory: &Path) -> [Family; 2] {
    let sample = |bytes: io::Result<u64>| bytes.ok().map(|bytes| ([("service", service.to_owned())], bytes as f64));
    let free = "Free space of the disk with a service's directory, for users other than root.";
    let size = "Size of the disk with a service's directory.";
    [
        family(Kind::Gauge, "hoistway_disk_free_bytes", free, sample(crate::fs::free_bytes(directory))),
        family(Kind::Gauge, "hoistway_disk_size_bytes", size, sample(crate::fs::total_bytes(directory))),
    ]
}

/// Returns the text format, version 0.0.4. Families with the same name are merged.
pub fn text(families: Vec<Family>) -> String {
    let mut by_name: BTreeMap<String, Family> = BTreeMap::new();
    for family in families {
        match by_name.get_mut(&family.name) {
            Some(known) => known.samples.extend(family.samples),
            None => drop(by_name.insert(family.name.clone(), family)),
        }
    }
    let mut out = String::new();
    for Family { name, help, kind, samples } in by_name.into_values() {
        let help = help.replace('\\', "\\\\").replace('\n', "\\n");
        // Writing into a String cannot fail.
        let _ = writeln!(out, "# HELP {name} {help}\n# TYPE {name} {}", kind.as_str());
        for Sample { suffix, labels, value } in samples {
            let _ = write!(out, "{name}{suffix}");
            for (i, (label, value)) in labels.iter().enumerate() {
                let value = value.replace('\\', "\\\\").replace('"', "\\\"").replace('\n', "\\n");
                let _ = write!(out, "{}{label}=\"{value}\"", if i == 0 { '{' } else { ',' });
            }
            let _ = writeln!(out, "{} {value}", if labels.is_empty() { "" } else { "}" });
        }
    }
    out
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn the_text_format() {
        let counter = Counter::new("a_total", "Things.", &["agent", "outcome"]);
        counter.inc(&["x", "ok"]);
        counter.add(&["x", "ok"], 2.0);
        counter.inc(&["y\"\n\\", "ok"]);
        let histogram = Histogram::new("b_seconds", "Times.", &[]);
        for ms in [1, 700, 400_000] {
            histogram.observe(&[], Duration::from_millis(ms));
        }
        let again = family(Kind::Counter, "a_total", "", [([("agent", "z".to_owned())], 1.5)]);
        let text = text(vec![histogram.family(), counter.family(), again]);
        let expected = "# HELP a_total Things.\n# TYPE a_total counter\na_total{agent=\"x\",outcome=\"ok\"} 3\n\
            a_total{agent=\"y\\\"\\n\\\\\",outcome=\"ok\"} 1\na_total{agent=\"z\"} 1.5\n# HELP b_seconds Times.\n";
        assert!(text.starts_with(expected), "{text}");
        for line in ["{le=\"0.005\"} 1", "{le=\"0.5\"} 1", "{le=\"1\"} 2", "{le=\"300\"} 2", "{le=\"+Inf\"} 3"] {
            assert!(text.contains(&format!("b_seconds_bucket{line}\n")), "{line}: {text}");
        }
        assert!(text.ends_with("b_seconds_sum 400.701\nb_seconds_count 3\n"), "{text}");
    }

    #[test]
    fn series_are_bounded_and_forgotten() {
        let counter = Counter::new("a_total", "", &["agent"]);
        for n in 0..MAX_SERIES + 10 {
            counter.inc(&[&n.to_string()]);
        }
        let family = counter.family();
        assert_eq!(family.samples.len(), MAX_SERIES + 1);
        assert_eq!(family.samples.iter().find(|s| s.labels[0].1 == "other").unwrap().value, 10.0);
        counter.forget("other");
        assert_eq!(counter.family().samples.len(), MAX_SERIES);
    }
}
