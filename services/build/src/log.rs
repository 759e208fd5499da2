//! The lines and the steps of one build: bounded, and readable while they are written.

use futures_util::stream;
use hoistway_kit::time::now_ms;
use hoistway_model::{
    Error,
    build::BuildStep,
    log::{LogLine, LogPiece, LogPieces, LogQuery, LogStream},
    redact::Masker,
};
use serde::{Deserialize, Serialize};
use std::{
    collections::VecDeque,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};
use tokio::sync::watch;

/// The number of lines that are kept of each end of a longer log.
const MAX_LINES: usize = 1_000;
/// The longest line, in characters.
const MAX_LINE: usize = 2_000;
/// The most lines of one piece.
const PIECE: usize = 200;

/// A build's log. Clones share it.
#[derive(Debug, Clone, Default)]
pub struct BuildLog(Arc<Shared>);

#[derive(Debug, Default)]
struct Shared {
    state: Mutex<State>,
    /// Wakes those who follow it.
    changed: watch::Sender<()>,
}

#[derive(Debug, Default)]
struct State {
    masker: Masker,
    first: Vec<LogLine>,
    last: VecDeque<LogLine>,
    /// Lines between the two ends that are not kept.
    dropped: usize,
    steps: Vec<BuildStep>,
    layers: Vec<bool>,
    ended: bool,
}

/// The log of a build that has ended, as it is stored.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct Kept {
    /// The lines; they are kept as plain text beside the rest.
    #[serde(skip)]
    pub lines: Vec<String>,
    /// When each line was said, in milliseconds since the epoch.
    times: Vec<i64>,
    /// The build's steps.
    pub steps: Vec<BuildStep>,
    /// The HTTP request that caused the build.
    pub request_id: Option<String>,
}

impl Kept {
    /// The wanted lines, all at once. Those of a build before times were kept were said at `otherwise`.
    pub fn read(&self, query: &LogQuery, otherwise: i64) -> LogPieces {
        let times = self.times.iter().copied().chain(std::iter::repeat(otherwise));
        let lines = self.lines.iter().zip(times).map(|(text, time_ms)| line(time_ms, text.clone()));
        let mut lines: Vec<LogLine> = lines.filter(|line| query.wants(line)).collect();
        lines.drain(..lines.len().saturating_sub(query.count()));
        Box::pin(stream::iter((!lines.is_empty()).then_some(Ok(LogPiece::Lines(lines)))))
    }
}

fn line(time_ms: i64, text: String) -> LogLine {
    LogLine { time_ms, stream: LogStream::Platform, revision: None, text }
}

impl BuildLog {
    /// An empty log that hides what `masker` knows.
    pub fn new(masker: Masker) -> Self {
        Self(Arc::new(Shared { state: Mutex::new(State { masker, ..State::default() }), ..Shared::default() }))
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.0.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// An error without what this log hides.
    pub fn masked(&self, error: Error) -> Error {
        self.lock().masker.error(error)
    }

    /// Adds one or more lines.
    pub fn write_line(&self, text: impl AsRef<str>) {
        {
            let mut log = self.lock();
            let (now, text) = (now_ms(), log.masker.text(text.as_ref()));
            for text in text.lines() {
                let text = match text.char_indices().nth(MAX_LINE) {
                    Some((end, _)) => format!("{} …", &text[..end]),
                    None => text.to_owned(),
                };
                if log.first.len() < MAX_LINES {
                    log.first.push(line(now, text));
                    continue;
                }
                if log.last.len() == MAX_LINES {
                    log.last.pop_front();
                    log.dropped += 1;
                }
                log.last.push_back(line(now, text));
            }
        }
        self.0.changed.send_replace(());
    }

    /// Ends the step before and begins the next.
    pub fn step(&self, step: &str) {
        let (mut log, now) = (self.lock(), now_ms());
        end_step(&mut log.steps, now);
        log.steps.push(BuildStep { step: step.to_owned(), started_at: now, completed_at: None });
    }

    /// Notes whether a dependency layer was there already.
    pub fn dependency_layer(&self, reused: bool) {
        self.lock().layers.push(reused);
    }

    /// The dependency layers that were needed: whether each was there already.
    pub fn dependency_layers(&self) -> Vec<bool> {
        self.lock().layers.clone()
    }

    /// The steps so far.
    pub fn steps(&self) -> Vec<BuildStep> {
        self.lock().steps.clone()
    }

    /// Ends the log: whoever follows it comes to its end.
    pub fn end(&self) {
        {
            let mut log = self.lock();
            end_step(&mut log.steps, now_ms());
            log.ended = true;
        }
        self.0.changed.send_replace(());
    }

    /// The log as it is stored, as if the build ended now.
    pub fn kept(&self, request_id: Option<String>) -> Kept {
        let log = self.lock();
        let all: Vec<LogLine> = log.all().collect();
        let mut steps = log.steps.clone();
        end_step(&mut steps, now_ms());
        Kept {
            times: all.iter().map(|line| line.time_ms).collect(),
            lines: all.into_iter().map(|line| line.text).collect(),
            steps,
            request_id,
        }
    }

    /// The kept lines' texts.
    pub fn lines(&self) -> Vec<String> {
        self.lock().all().map(|line| line.text).collect()
    }

    /// The wanted lines, and, if requested, those that are said until the end.
    pub fn read(&self, query: LogQuery) -> LogPieces {
        if !query.follow {
            return self.kept(None).read(&query, 0);
        }
        let changed = self.0.changed.subscribe();
        let next = self.lock().position(&query);
        let follower = Follower { log: self.clone(), query, changed, next };
        Box::pin(stream::unfold(follower, |mut follower| async move { Some((Ok(follower.next().await?), follower)) }))
    }
}

fn end_step(steps: &mut [BuildStep], now: i64) {
    if let Some(last) = steps.last_mut() {
        last.completed_at.get_or_insert(now);
    }
}

impl State {
    /// Every kept line, with a remark where some are missing.
    fn all(&self) -> impl Iterator<Item = LogLine> {
        let time = self.first.last().map_or(0, |line| line.time_ms);
        let gap = (self.dropped > 0).then(|| line(time, format!("… {} lines left out …", self.dropped)));
        self.first.iter().cloned().chain(gap).chain(self.last.iter().cloned())
    }

    /// The number of lines so far.
    fn count(&self) -> usize {
        self.first.len() + self.dropped + self.last.len()
    }

    fn get(&self, index: usize) -> Option<&LogLine> {
        self.first.get(index).or_else(|| self.last.get(index.checked_sub(self.first.len() + self.dropped)?))
    }

    /// Where one begins to read who wants only so many of the newest lines.
    fn position(&self, query: &LogQuery) -> usize {
        let wanted = |index: &usize| self.get(*index).is_some_and(|line| query.wants(line));
        match query.count() {
            0 => self.count(),
            count => (0..self.count()).rev().filter(wanted).take(count).last().unwrap_or_else(|| self.count()),
        }
    }
}

/// One who follows a log. It has nothing of its own but where it is.
struct Follower {
    log: BuildLog,
    query: LogQuery,
    changed: watch::Receiver<()>,
    next: usize,
}

impl Follower {
    async fn next(&mut self) -> Option<LogPiece> {
        loop {
            self.changed.borrow_and_update();
            if let Some(piece) = self.try_next()? {
                return Some(piece);
            }
            self.changed.changed().await.ok()?;
        }
    }

    /// `None` at the end, `Some(None)` when there is nothing yet.
    fn try_next(&mut self) -> Option<Option<LogPiece>> {
        let log = self.log.lock();
        let gap = log.first.len()..log.first.len() + log.dropped;
        if gap.contains(&self.next) {
            let skipped = gap.end - self.next;
            self.next = gap.end;
            return Some(Some(LogPiece::Skipped(skipped as u64)));
        }
        let mut lines = Vec::new();
        while let Some(line) = log.get(self.next) {
            if lines.len() == PIECE {
                break;
            }
            self.next += 1;
            if self.query.wants(line) {
                lines.push(line.clone());
            }
            if gap.contains(&self.next) {
                break;
            }
        }
        match lines.is_empty() {
            false => Some(Some(LogPiece::Lines(lines))),
            true if gap.contains(&self.next) => {
                drop(log);
                self.try_next()
            }
            true if log.ended => None,
            true => Some(None),
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use futures_util::{FutureExt, StreamExt};

    #[test]
    fn a_long_log_keeps_both_ends() {
        let log = BuildLog::default();
        for i in 0..2 * MAX_LINES + 10 {
            log.write_line(i.to_string());
        }
        let lines = log.lines();
        assert_eq!(lines.len(), 2 * MAX_LINES + 1);
        assert_eq!((lines[0].as_str(), lines[2 * MAX_LINES].as_str()), ("0", "2009"));
        assert_eq!(lines[MAX_LINES], "… 10 lines left out …");
    }

    #[test]
    fn a_long_line_is_cut_between_characters() {
        let log = BuildLog::default();
        log.write_line("ä".repeat(MAX_LINE + 1));
        assert_eq!(log.lines()[0].chars().count(), MAX_LINE + 2);
    }

    fn follow(log: &BuildLog, tail: u32) -> LogPieces {
        log.read(LogQuery { follow: true, ..LogQuery::last(tail) })
    }

    fn ready(pieces: &mut LogPieces) -> Vec<String> {
        let mut got = Vec::new();
        while let Some(Some(piece)) = pieces.next().now_or_never() {
            match piece.unwrap() {
                LogPiece::Lines(lines) => got.extend(lines.into_iter().map(|line| line.text)),
                LogPiece::Skipped(count) => got.push(format!("-{count}")),
            }
        }
        got
    }

    #[tokio::test]
    async fn followers_see_what_is_said_until_the_end() {
        let log = BuildLog::default();
        log.write_line("one\ntwo");
        let (mut all, mut last, mut new) = (follow(&log, 100), follow(&log, 1), follow(&log, 0));
        assert_eq!(
            (ready(&mut all), ready(&mut last), ready(&mut new)),
            (vec!["one".into(), "two".into()], vec!["two".into()], vec![])
        );
        log.write_line("three");
        for pieces in [&mut all, &mut last, &mut new] {
            assert_eq!(ready(pieces), ["three"]);
        }
        let waiting = tokio::spawn(async move { new.next().await });
        tokio::task::yield_now().await;
        log.end();
        assert!(waiting.await.unwrap().is_none() && all.next().await.is_none());
        assert_eq!(ready(&mut follow(&log, 2)), ["two", "three"]);
    }

    #[tokio::test]
    async fn a_follower_that_fell_behind_is_told_what_is_missing() {
        let log = BuildLog::default();
        let mut slow = follow(&log, 0);
        for i in 0..2 * MAX_LINES + 7 {
            log.write_line(i.to_string());
        }
        let seen = ready(&mut slow);
        assert_eq!(
            (seen.len(), seen[MAX_LINES].as_str(), seen[MAX_LINES + 1].as_str()),
            (2 * MAX_LINES + 1, "-7", "1007")
        );
        let mut tail = follow(&log, 3);
        assert_eq!(ready(&mut tail), ["2004", "2005", "2006"]);
        log.write_line("more");
        assert_eq!((ready(&mut slow), ready(&mut tail)), (vec!["more".into()], vec!["more".into()]));
    }

    #[test]
    fn steps_follow_each_other_and_are_kept() {
        let log = BuildLog::default();
        log.step("queue");
        log.step("image");
        let kept = log.kept(Some("req".into()));
        let kept: Kept = serde_json::from_str(&serde_json::to_string(&kept).unwrap()).unwrap();
        let steps = kept.steps;
        assert_eq!(steps.iter().map(|s| s.step.as_str()).collect::<Vec<_>>(), ["queue", "image"]);
        assert_eq!(steps[0].completed_at, Some(steps[1].started_at));
        assert!(steps[1].completed_at.is_some() && log.steps()[1].completed_at.is_none());
        log.end();
        assert!(log.steps()[1].completed_at.is_some());
    }

    #[test]
    fn logs_of_earlier_versions_are_read_and_written_unchanged() {
        let text = r#"{"times":[11,12],"steps":[["queue",10,12],["image",12,null]],"request_id":"r"}"#;
        let kept: Kept = serde_json::from_str(text).unwrap();
        assert_eq!(serde_json::to_string(&kept).unwrap(), text);
        let step = |step: &str, started_at, completed_at| BuildStep { step: step.into(), started_at, completed_at };
        assert_eq!(kept.steps, [step("queue", 10, Some(12)), step("image", 12, None)]);
    }
}
