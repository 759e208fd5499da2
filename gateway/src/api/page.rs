//! Lists that are ordered by name: `?limit=` and `?after=NAME`.

use super::query::Query;
use axum::response::{IntoResponse, Response};
use hoistway_model::{
    Error, Name, Result,
    page::{Page, PageQuery},
};
use http::{HeaderValue, header};
use serde::Serialize;

/// The most that one answer lists, and what it lists when nobody says how much.
const MAX_LIMIT: u32 = 1_000;
/// The most that one answer takes, unless its only entry is larger.
const MAX_BYTES: usize = 32 << 20;

/// A part of a list, with a link to the next one if there is more.
#[derive(Debug)]
pub struct ByName {
    json: Vec<u8>,
    next: Option<HeaderValue>,
}

impl ByName {
    /// The part of `all`, which is ordered by name, that the request asks for, each in its public form.
    pub fn of<R, T: Serialize>(
        query: &Query,
        all: Vec<R>,
        name: impl Fn(&R) -> &Name,
        show: impl Fn(R) -> T,
    ) -> Result<Self> {
        let PageQuery { after, limit } = asked(query)?;
        let from = after.map_or(0, |after| all.partition_point(|item| *name(item) <= after));
        let page = Page::of(all.into_iter().skip(from).collect(), limit as usize);
        let mut answer = Answer::new(limit);
        answer.take(page, name, show)?;
        Ok(answer.end())
    }

    /// The part that the request asks for of what a service lists in parts itself.
    pub async fn asked<R, T, F>(
        query: &Query,
        list: impl Fn(PageQuery) -> F,
        name: impl Fn(&R) -> &Name,
        show: impl Fn(R) -> T,
    ) -> Result<Self>
    where
        T: Serialize,
        F: Future<Output = Result<Page<R>>>,
    {
        let mut query = asked(query)?;
        let mut answer = Answer::new(query.limit);
        loop {
            let page = list(query.clone()).await?;
            if !answer.take(page, &name, &show)? {
                return Ok(answer.end());
            }
            query = PageQuery { after: answer.last.clone(), limit: answer.left };
        }
    }
}

fn asked(query: &Query) -> Result<PageQuery> {
    let limit = query.number("limit", 1..=MAX_LIMIT)?.unwrap_or(MAX_LIMIT);
    Ok(PageQuery { after: query.name("after")?, limit })
}

/// An answer that is being written: of all that it lists, only the text is in memory.
struct Answer {
    json: Vec<u8>,
    limit: u32,
    /// How many entries it may still have.
    left: u32,
    last: Option<Name>,
    /// Whether there are others after the last one.
    more: bool,
}

impl Answer {
    fn new(limit: u32) -> Self {
        Self { json: Vec::new(), limit, left: limit, last: None, more: false }
    }

    /// Writes a part of the list; whether the part after it is wanted too.
    fn take<R, T: Serialize>(
        &mut self,
        page: Page<R>,
        name: impl Fn(&R) -> &Name,
        show: impl Fn(R) -> T,
    ) -> Result<bool> {
        let empty = page.items.is_empty();
        self.more = page.more;
        for item in page.items {
            let (before, last) = (self.json.len(), name(&item).clone());
            self.json.push(if before == 0 { b'[' } else { b',' });
            serde_json::to_writer(&mut self.json, &show(item)).map_err(|e| Error::internal("writing a list", e))?;
            if self.left == 0 || before > 0 && self.json.len() > MAX_BYTES {
                self.json.truncate(before);
                self.more = true;
                return Ok(false);
            }
            (self.left, self.last) = (self.left - 1, Some(last));
        }
        Ok(self.more && !empty && self.left > 0)
    }

    fn end(mut self) -> ByName {
        if self.json.is_empty() {
            self.json.push(b'[');
        }
        self.json.push(b']');
        // Relative to the request, which may be under /api or /api/v1.
        let link = |last: Name| format!("<?limit={}&after={last}>; rel=\"next\"", self.limit);
        let next = self.last.filter(|_| self.more).map(link);
        ByName { json: self.json, next: next.and_then(|link| HeaderValue::from_str(&link).ok()) }
    }
}

impl IntoResponse for ByName {
    fn into_response(self) -> Response {
        let mut response = ([(header::CONTENT_TYPE, "application/json")], self.json).into_response();
        if let Some(next) = self.next {
            response.headers_mut().insert(header::LINK, next);
        }
        response
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    fn page(names: &[&str], more: bool) -> Page<Name> {
        Page { items: names.iter().map(|name| Name::parse("name", name).unwrap()).collect(), more }
    }

    fn shown(answer: Answer) -> (String, Option<String>) {
        let ByName { json, next } = answer.end();
        (String::from_utf8(json).unwrap(), next.map(|next| next.to_str().unwrap().to_owned()))
    }

    #[test]
    fn parts_become_one_answer_with_a_link_where_there_is_more() {
        let mut answer = Answer::new(3);
        assert!(answer.take(page(&["a", "b"], true), |name| name, |name| name).unwrap());
        assert!(!answer.take(page(&["c"], true), |name| name, |name| name).unwrap());
        let next = "<?limit=3&after=c>; rel=\"next\"";
        assert_eq!(shown(answer), (r#"["a","b","c"]"#.to_owned(), Some(next.to_owned())));

        let mut answer = Answer::new(3);
        assert!(!answer.take(page(&[], false), |name| name, |name| name).unwrap());
        assert_eq!(shown(answer), ("[]".to_owned(), None));
    }

    #[test]
    fn an_answer_ends_before_it_is_too_large() {
        let large = |_| "x".repeat(MAX_BYTES * 2 / 3);
        let mut answer = Answer::new(9);
        assert!(!answer.take(page(&["a", "b", "c"], false), |name| name, large).unwrap());
        let (json, next) = shown(answer);
        assert_eq!((json.len(), next.as_deref()), (MAX_BYTES * 2 / 3 + 4, Some("<?limit=9&after=a>; rel=\"next\"")));
    }
}
