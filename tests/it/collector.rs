//! A collector of OpenTelemetry for tests, and the traces in it as trees.

use opentelemetry_proto::tonic::{
    collector::trace::v1::ExportTraceServiceRequest,
    common::v1::{KeyValue, any_value::Value as Attribute},
    trace::v1::{Span, span::SpanKind, status::StatusCode},
};
use prost::Message;
use std::{
    fmt,
    io::{BufRead, BufReader, Read, Write},
    net::{TcpListener, TcpStream},
    sync::{Arc, Mutex},
};

/// A collector for OTLP over HTTP.
#[derive(Clone, Default)]
pub struct Collector(Arc<Mutex<Vec<Vec<u8>>>>);

impl Collector {
    /// Starts one; returns it and its URL.
    pub fn start() -> (Self, String) {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let url = format!("http://{}", listener.local_addr().unwrap());
        (Self::take(listener), url)
    }

    /// Takes exports from a listener.
    pub fn take(listener: TcpListener) -> Self {
        let collector = Self::default();
        let taking = collector.clone();
        std::thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                let taking = taking.clone();
                std::thread::spawn(move || taking.serve(&stream));
            }
        });
        collector
    }

    fn serve(&self, mut stream: &TcpStream) {
        let mut reader = BufReader::new(stream);
        loop {
            let (mut line, mut length) = (String::new(), 0);
            while reader.read_line(&mut line).is_ok_and(|read| read > 2) {
                if let Some(("content-length", value)) = line.to_lowercase().trim().split_once(": ") {
                    length = value.parse().unwrap();
                }
                line.clear();
            }
            let mut body = vec![0; length];
            if length == 0 || reader.read_exact(&mut body).is_err() {
                return;
            }
            self.0.lock().unwrap().push(body);
            let _ = stream.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n");
        }
    }

    pub fn spans(&self) -> Vec<Span> {
        self.exported().into_iter().map(|exported| exported.span).collect()
    }

    /// Returns every span with the service that exported it.
    pub fn exported(&self) -> Vec<Exported> {
        let mut all = Vec::new();
        for body in self.0.lock().unwrap().iter() {
            for resource in ExportTraceServiceRequest::decode(&body[..]).unwrap().resource_spans {
                let attributes = resource.resource.unwrap_or_default().attributes;
                let service = value(&attributes, "service.name").unwrap();
                let spans = resource.scope_spans.into_iter().flat_map(|scope| scope.spans);
                all.extend(spans.map(|span| Exported { service: service.clone(), span }));
            }
        }
        all
    }

    /// Returns the tree of the trace with the root of this name. Panics unless it has one root and no gap.
    pub fn tree(&self, root: &str) -> Tree {
        let all = self.exported();
        let roots: Vec<_> = all.iter().filter(|e| e.span.parent_span_id.is_empty() && e.span.name == root).collect();
        let names = || all.iter().map(|e| format!("{} {}", e.service, e.span.name)).collect::<Vec<_>>().join("\n");
        assert_eq!(roots.len(), 1, "roots named {root}, among\n{}", names());
        let trace = roots[0].span.trace_id.clone();
        let mut spans: Vec<Exported> = all.into_iter().filter(|e| e.span.trace_id == trace).collect();
        spans.sort_by_key(|e| e.span.start_time_unix_nano);
        let tree = Tree { spans };
        let is_there = |id: &[u8]| tree.spans.iter().any(|e| e.span.span_id == id);
        for Exported { span, .. } in &tree.spans {
            let is_root = span.parent_span_id.is_empty() && span.name == root;
            assert!(is_root || is_there(&span.parent_span_id), "the parent of {} is missing:\n{tree}", span.name);
        }
        tree
    }

    /// Whether an export has these bytes anywhere.
    pub fn has(&self, text: &str) -> bool {
        let bodies = self.0.lock().unwrap();
        bodies.iter().any(|body| body.windows(text.len()).any(|window| window == text.as_bytes()))
    }
}

/// A span, and the service that exported it.
#[derive(Clone)]
pub struct Exported {
    pub service: String,
    pub span: Span,
}

/// The spans of one trace in the order of their starts. It is displayed as a tree.
pub struct Tree {
    pub spans: Vec<Exported>,
}

impl Tree {
    /// Whether it has such a span somewhere below a span of the other name.
    pub fn has_below(&self, ancestor: &str, service: &str, name: &str) -> bool {
        let mut found = self.spans.iter().filter(|e| e.span.name == name && e.service == service);
        found.any(|e| {
            let mut at = e;
            while let Some(parent) = self.spans.iter().find(|p| p.span.span_id == at.span.parent_span_id) {
                if parent.span.name == ancestor {
                    return true;
                }
                at = parent;
            }
            false
        })
    }

    /// Returns the span with this name, of whatever service.
    pub fn named(&self, name: &str) -> &Span {
        let found = self.spans.iter().find(|e| e.span.name == name);
        &found.unwrap_or_else(|| panic!("{name} is not in\n{self}")).span
    }

    fn write(&self, out: &mut fmt::Formatter<'_>, parent: &[u8], depth: usize) -> fmt::Result {
        for Exported { service, span } in self.spans.iter().filter(|e| e.span.parent_span_id == parent) {
            let kind = match span.kind() {
                SpanKind::Client => " client",
                SpanKind::Server => " server",
                _ => "",
            };
            let ms = (span.end_time_unix_nano - span.start_time_unix_nano) as f64 / 1e6;
            let failed = span.status.as_ref().is_some_and(|status| status.code() == StatusCode::Error);
            let failed = if failed { " ERROR" } else { "" };
            let attributes =
                span.attributes.iter().filter_map(|pair| Some(format!("{}={}", pair.key, attribute(span, &pair.key)?)));
            let attributes = attributes.collect::<Vec<_>>().join(" ");
            let indent = "  ".repeat(depth);
            writeln!(out, "{indent}{} [{service}{kind}] {ms:.1} ms{failed}  {attributes}", span.name)?;
            self.write(out, &span.span_id, depth + 1)?;
        }
        Ok(())
    }
}

impl fmt::Display for Tree {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.write(out, &[], 0)
    }
}

pub fn attribute(span: &Span, key: &str) -> Option<String> {
    value(&span.attributes, key)
}

fn value(attributes: &[KeyValue], key: &str) -> Option<String> {
    let value = attributes.iter().find(|attribute| attribute.key == key)?.value.clone()?.value?;
    Some(match value {
        Attribute::StringValue(text) => text,
        Attribute::IntValue(number) => number.to_string(),
        Attribute::BoolValue(is) => is.to_string(),
        other => format!("{other:?}"),
    })
}

pub fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}
