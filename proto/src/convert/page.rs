use hoistway_model::{Result, page::PageQuery};
use prost::Message;

/// The most bytes of one page of a list; a larger entry is a page of its own.
const PART: usize = 8 << 20;

/// Returns the page that a message requests; `None` if its client does not support pages and requests everything.
pub fn page_query(after: &str, limit: u32) -> Result<Option<PageQuery>> {
    let after = if after.is_empty() { None } else { Some(super::name("after", after)?) };
    Ok((limit > 0).then_some(PageQuery { after, limit }))
}

/// Returns the first of `messages` that fit in one page, and whether there are `more` than those.
pub fn part<M: Message>(messages: impl IntoIterator<Item = impl Into<M>>, more: bool) -> (Vec<M>, bool) {
    let (mut taken, mut bytes) = (Vec::new(), 0_usize);
    for message in messages {
        let message: M = message.into();
        bytes = bytes.saturating_add(message.encoded_len());
        if bytes > PART && !taken.is_empty() {
            return (taken, true);
        }
        taken.push(message);
    }
    (taken, more)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_part_is_no_larger_than_its_measure_and_never_empty() {
        let of = |sizes: &[usize]| {
            let (taken, more) = part::<String>(sizes.iter().map(|size| "x".repeat(*size)), false);
            (taken.len(), more)
        };
        assert_eq!(of(&[]), (0, false));
        assert_eq!(of(&[1, 2, 3]), (3, false));
        assert_eq!(of(&[PART / 2, PART / 3, PART / 3, 1]), (2, true));
        assert_eq!(of(&[2 * PART]), (1, false));
        assert_eq!(of(&[2 * PART, 1]), (1, true));
    }
}
