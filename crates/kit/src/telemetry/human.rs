//! The log format for people: time, level, message and fields. Of the enclosing spans a line shows only the fields that
//! identify its request, deployment and agent; the rest is for traces and for JSON logs. An event is always one line.

use super::SHOWN;
use std::fmt::{self, Debug};
use tracing::{
    Event, Level, Subscriber,
    field::{Field, Visit},
};
use tracing_subscriber::{
    field::{RecordFields, VisitOutput},
    fmt::{
        FmtContext, FormatEvent, FormatFields, FormattedFields,
        format::{DefaultVisitor, Writer},
        time::{FormatTime, SystemTime},
    },
    registry::LookupSpan,
};

/// Whether a character changes the display of others: it controls a terminal, ends a line, or changes the direction of
/// text (Unicode's bidirectional controls and its line and paragraph separators).
pub fn controls_display(c: char) -> bool {
    let direction =
        matches!(c, '\u{61c}' | '\u{200e}' | '\u{200f}' | '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}');
    c.is_control() || direction || matches!(c, '\u{2028}' | '\u{2029}')
}

/// Formats a line.
#[derive(Debug)]
pub struct HumanFormat;

impl<S, N> FormatEvent<S, N> for HumanFormat
where
    S: Subscriber + for<'a> LookupSpan<'a>,
    N: for<'a> FormatFields<'a> + 'static,
{
    fn format_event(&self, ctx: &FmtContext<'_, S, N>, mut writer: Writer<'_>, event: &Event<'_>) -> fmt::Result {
        let meta = event.metadata();
        let (dimmed, italic, reset) = match writer.has_ansi_escapes() {
            true => ("\x1b[2m", "\x1b[3m", "\x1b[0m"),
            false => ("", "", ""),
        };
        let colour = if writer.has_ansi_escapes() { colour(*meta.level()) } else { "" };
        write!(writer, "{dimmed}")?;
        if SystemTime.format_time(&mut writer).is_err() {
            writer.write_str("<unknown time>")?;
        }
        write!(writer, "{reset} {colour}{:>5}{reset} ", meta.level())?;
        // Lines at info are for operators; the target of other lines helps in debugging.
        if *meta.level() != Level::INFO {
            write!(writer, "{dimmed}{}:{reset} ", meta.target())?;
        }
        let mut fields = OneLine(DefaultVisitor::new(writer.by_ref(), true));
        event.record(&mut fields);
        fields.0.finish()?;
        for name in SHOWN.into_iter().filter(|name| meta.fields().field(name).is_none()) {
            // The innermost span with the field wins.
            let value = ctx.event_scope().into_iter().flatten().find_map(|span| {
                let extensions = span.extensions();
                let fields = &extensions.get::<FormattedFields<N>>()?.fields;
                fields.split(' ').find_map(|field| field.strip_prefix(name)?.strip_prefix('=')).map(str::to_owned)
            });
            if let Some(value) = value {
                write!(writer, " {italic}{name}{reset}{dimmed}={reset}{value}")?;
            }
        }
        writeln!(writer)
    }
}

const fn colour(level: Level) -> &'static str {
    match level {
        Level::ERROR => "\x1b[31m",
        Level::WARN => "\x1b[33m",
        Level::INFO => "\x1b[32m",
        Level::DEBUG => "\x1b[34m",
        Level::TRACE => "\x1b[35m",
    }
}

/// Writes fields with control characters escaped: untrusted text cannot forge a line or control a terminal.
struct OneLine<'a>(DefaultVisitor<'a>);

impl Visit for OneLine<'_> {
    fn record_debug(&mut self, field: &Field, value: &dyn Debug) {
        let text = format!("{value:?}");
        if !text.contains(controls_display) {
            return self.0.record_debug(field, &format_args!("{text}"));
        }
        let escaped = text.chars().fold(String::new(), |mut line, c| {
            match controls_display(c) {
                true => line.extend(c.escape_default()),
                false => line.push(c),
            }
            line
        });
        self.0.record_debug(field, &format_args!("{escaped}"));
    }

    fn record_str(&mut self, field: &Field, value: &str) {
        match field.name() {
            "message" => self.record_debug(field, &format_args!("{value}")),
            _ => self.record_debug(field, &value),
        }
    }
}

/// Stores the fields of a span that lines show.
#[derive(Debug)]
pub struct SpanFields;

impl<'a> FormatFields<'a> for SpanFields {
    fn format_fields<R: RecordFields>(&self, writer: Writer<'a>, fields: R) -> fmt::Result {
        let mut kept = Kept { writer, result: Ok(()) };
        fields.record(&mut kept);
        kept.result
    }
}

struct Kept<'a> {
    writer: Writer<'a>,
    result: fmt::Result,
}

impl Kept<'_> {
    fn keep(&mut self, field: &Field, value: fmt::Arguments<'_>) {
        if self.result.is_ok() && SHOWN.contains(&field.name()) {
            self.result = write!(self.writer, "{}={value} ", field.name());
        }
    }
}

impl Visit for Kept<'_> {
    fn record_str(&mut self, field: &Field, value: &str) {
        self.keep(field, format_args!("{value}"));
    }

    fn record_debug(&mut self, field: &Field, value: &dyn Debug) {
        self.keep(field, format_args!("{value:?}"));
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;
    use std::{
        io,
        sync::{Arc, Mutex},
    };
    use tracing_subscriber::{fmt as lines, layer::SubscriberExt};

    #[derive(Clone, Default)]
    struct Captured(Arc<Mutex<Vec<u8>>>);

    impl io::Write for Captured {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            self.0.lock().unwrap().write(bytes)
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    /// Returns what `work` logs, without the time.
    fn logged(colours: bool, work: impl FnOnce()) -> Vec<String> {
        let captured = Captured::default();
        let writer = captured.clone();
        let layer = lines::layer()
            .fmt_fields(SpanFields)
            .event_format(HumanFormat)
            .with_ansi(colours)
            .with_writer(move || writer.clone());
        tracing::subscriber::with_default(tracing_subscriber::registry().with(layer), work);
        let text = String::from_utf8(captured.0.lock().unwrap().clone()).unwrap();
        text.lines().map(|line| line.split_once(' ').unwrap().1.trim_start().to_owned()).collect()
    }

    #[test]
    fn an_access_line_is_the_request_and_its_id() {
        let told = logged(false, || {
            let request = tracing::info_span!("request", otel.name = "POST /api/deploy", request_id = %"r-1");
            let call = tracing::info_span!(parent: &request, "grpc.server", rpc.method = "Build", request_id = "r-1");
            let _inside = call.enter();
            tracing::info!(target: "hoistway::access", request_id = %"r-1", "POST /api/deploy 201 64ms");
        });
        assert_eq!(told, ["INFO POST /api/deploy 201 64ms request_id=r-1"]);
    }

    #[test]
    fn a_line_names_the_request_deployment_and_agent_that_it_belongs_to() {
        let told = logged(false, || {
            let request = tracing::info_span!("request", http.route = "/api/deploy", request_id = "r-1");
            let deployment = tracing::info_span!(parent: &request, "deployment", deployment = "d-1", agent = "hello");
            let _inside = deployment.enter();
            tracing::warn!(target: "test", step = "build", "it failed");
            tracing::error!(target: "test", agent = "other", "it failed");
        });
        assert_eq!(
            told,
            [
                "WARN test: it failed step=\"build\" request_id=r-1 deployment=d-1 agent=hello",
                "ERROR test: it failed agent=\"other\" request_id=r-1 deployment=d-1",
            ]
        );
    }

    #[test]
    fn a_request_id_that_is_recorded_later_is_shown() {
        let told = logged(false, || {
            let span =
                tracing::info_span!("call", request_id = tracing::field::Empty, trace_id = tracing::field::Empty);
            span.record("trace_id", "t-1");
            span.record("request_id", "r-1");
            span.in_scope(|| tracing::info!("done"));
            tracing::info!("no span");
        });
        assert_eq!(told, ["INFO done request_id=r-1", "INFO no span"]);
    }

    #[test]
    fn an_event_is_one_line_whatever_is_in_it() {
        let sent = "no\n2026-11-28T00:00:00Z  INFO forged\r\u{1b}[2J\u{9b}";
        let escaped = "no\\n2026-11-28T00:00:00Z  INFO forged\\r\\u{1b}[2J\\u{9b}";
        let told = logged(false, || {
            tracing::info!("{sent}");
            tracing::info!(shown = %sent, text = sent, number = 1, "said");
        });
        assert_eq!(told, [format!("INFO {escaped}"), format!("INFO said shown={escaped} text=\"{escaped}\" number=1")]);
    }

    #[test]
    fn colours_are_for_terminals() {
        let told = logged(true, || tracing::warn!(target: "test", "full"));
        assert_eq!(told, ["\x1b[33m WARN\x1b[0m \x1b[2mtest:\x1b[0m full"]);
    }
}
