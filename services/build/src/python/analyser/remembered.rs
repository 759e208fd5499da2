//! Answers that are kept, so that no file is parsed twice.

use super::Answer;
use hoistway_model::Digest;
use std::collections::HashMap;

/// The number of files' answers that are remembered.
pub const MAX_REMEMBERED: usize = 8_192;

/// Answers by the file's digest. When it is full, the half that was used longest ago is forgotten.
#[derive(Debug, Default)]
pub struct Remembered {
    pub(super) answers: HashMap<Digest, (u64, Answer)>,
    clock: u64,
}

impl Remembered {
    /// The answer about a file.
    pub fn get(&mut self, digest: &Digest) -> Option<Answer> {
        self.clock += 1;
        let (used, answer) = self.answers.get_mut(digest)?;
        *used = self.clock;
        Some(answer.clone())
    }

    /// Keeps an answer.
    pub fn put(&mut self, digest: Digest, answer: Answer) {
        if self.answers.len() >= MAX_REMEMBERED {
            let mut ages: Vec<u64> = self.answers.values().map(|(used, _)| *used).collect();
            let middle = ages.len() / 2;
            let (_, &mut limit, _) = ages.select_nth_unstable(middle);
            self.answers.retain(|_, (used, _)| *used >= limit);
        }
        self.clock += 1;
        self.answers.insert(digest, (self.clock, answer));
    }
}
