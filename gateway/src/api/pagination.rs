//! Pages of lists. A list ordered by name takes `?limit=` and `?after=NAME` ([`NamePage`]), a list of records takes
//! `?limit=` and `?before=ID` and begins with the newest ([`RecordPage`]). The header `Link` leads to the next page.

use super::query::Query;
use axum::{
    Json,
    response::{IntoResponse, Response},
};
use hoistway_model::{
    Error, Name, Result,
    limits::MAX_PAGE,
    page::{Page, PageQuery},
};
use http::{HeaderValue, Uri, header};
use serde::Serialize;

/// The default of lists of records.
const DEFAULT_RECORDS: u32 = 100;
/// The largest page in bytes, unless its only entry is larger.
const MAX_BYTES: usize = 32 << 20;

/// A page of a list that is ordered by name.
#[derive(Debug)]
pub struct NamePage {
    json: Vec<u8>,
    next: Option<HeaderValue>,
}

impl NamePage {
    /// Returns the requested page of `all`, which is ordered by name; `show` makes the public form of an entry.
    pub fn of<R, T: Serialize>(
        query: &Query,
        all: Vec<R>,
        name: impl Fn(&R) -> &Name,
        show: impl Fn(R) -> T,
    ) -> Result<Self> {
        let PageQuery { after, limit } = page_query(query)?;
        let from = after.map_or(0, |after| all.partition_point(|item| *name(item) <= after));
        let page = Page::of(all.into_iter().skip(from).collect(), limit as usize);
        let mut writer = PageWriter::new(limit);
        writer.take(page, name, show)?;
        Ok(writer.end())
    }

    /// Returns the requested page of a list that a service returns in pages itself.
    pub async fn fetch<R, T, F>(
        query: &Query,
        list: impl Fn(PageQuery) -> F,
        name: impl Fn(&R) -> &Name,
        show: impl Fn(R) -> T,
    ) -> Result<Self>
    where
        T: Serialize,
        F: Future<Output = Result<Page<R>>>,
    {
        let mut query = page_query(query)?;
        let mut writer = PageWriter::new(query.limit);
        loop {
            let page = list(query.clone()).await?;
            if !writer.take(page, &name, &show)? {
                return Ok(writer.end());
            }
            query = PageQuery { after: writer.last.clone(), limit: writer.left };
        }
    }
}

fn page_query(query: &Query) -> Result<PageQuery> {
    let limit = query.number("limit", 1..=MAX_PAGE)?.unwrap_or(MAX_PAGE);
    Ok(PageQuery { after: query.name("after")?, limit })
}

/// Writes a page entry by entry, so that only its text is in memory.
struct PageWriter {
    json: Vec<u8>,
    limit: u32,
    /// The number of entries that may follow.
    left: u32,
    last: Option<Name>,
    /// Whether entries follow after the last one.
    more: bool,
}

impl PageWriter {
    fn new(limit: u32) -> Self {
        Self { json: Vec::new(), limit, left: limit, last: None, more: false }
    }

    /// Writes entries; returns whether the entries after them are wanted too.
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

    fn end(mut self) -> NamePage {
        if self.json.is_empty() {
            self.json.push(b'[');
        }
        self.json.push(b']');
        // Relative to the request, which may be under /api or /api/v1.
        let link = |last: Name| format!("<?limit={}&after={last}>; rel=\"next\"", self.limit);
        let next = self.last.filter(|_| self.more).map(link);
        NamePage { json: self.json, next: next.and_then(|link| HeaderValue::from_str(&link).ok()) }
    }
}

impl IntoResponse for NamePage {
    fn into_response(self) -> Response {
        let mut response = ([(header::CONTENT_TYPE, "application/json")], self.json).into_response();
        if let Some(next) = self.next {
            response.headers_mut().insert(header::LINK, next);
        }
        response
    }
}

/// The URI of the request. A nested route sees only the rest of its path.
#[derive(Debug, Clone)]
pub struct OriginalUri(pub Uri);

/// The requested page of a list of records.
#[derive(Debug, Clone, Copy)]
pub struct RecordPage {
    limit: u32,
}

impl RecordPage {
    /// Reads `limit`.
    pub fn parse(query: &Query) -> Result<Self> {
        Ok(Self { limit: query.number("limit", 1..=MAX_PAGE)?.unwrap_or(DEFAULT_RECORDS) })
    }

    /// Returns the number of records to look up: one more than the page has, which shows whether there is another page.
    pub fn look_up(self) -> u32 {
        self.limit + 1
    }

    /// Returns the most records of the page.
    pub fn limit(self) -> u32 {
        self.limit
    }

    /// Returns the page of `found`, which was looked up for it.
    pub fn of<T>(self, found: Vec<T>) -> Page<T> {
        Page::of(found, self.limit as usize)
    }

    /// Answers with the page of `found`, and a link to the next one.
    pub fn answer<T: Serialize>(self, uri: &OriginalUri, found: Vec<T>, id: impl Fn(&T) -> &str) -> Response {
        let Page { items, more } = self.of(found);
        let next = items.last().filter(|_| more).and_then(|last| next_link(uri, id(last)));
        let mut response = Json(items).into_response();
        if let Some(next) = next {
            response.headers_mut().insert(header::LINK, next);
        }
        response
    }
}

/// Returns a link to the same request, but for the records after `last`.
fn next_link(OriginalUri(uri): &OriginalUri, last: &str) -> Option<HeaderValue> {
    let given = url::form_urlencoded::parse(uri.query().unwrap_or_default().as_bytes());
    let mut query = url::form_urlencoded::Serializer::new(String::new());
    query.extend_pairs(given.filter(|(key, _)| key != "before")).append_pair("before", last);
    HeaderValue::try_from(format!("<{}?{}>; rel=\"next\"", uri.path(), query.finish())).ok()
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    fn page(names: &[&str], more: bool) -> Page<Name> {
        Page { items: names.iter().map(|name| Name::parse("name", name).unwrap()).collect(), more }
    }

    fn shown(writer: PageWriter) -> (String, Option<String>) {
        let NamePage { json, next } = writer.end();
        (String::from_utf8(json).unwrap(), next.map(|next| next.to_str().unwrap().to_owned()))
    }

    #[test]
    fn parts_become_one_answer_with_a_link_where_there_is_more() {
        let mut writer = PageWriter::new(3);
        assert!(writer.take(page(&["a", "b"], true), |name| name, |name| name).unwrap());
        assert!(!writer.take(page(&["c"], true), |name| name, |name| name).unwrap());
        let next = "<?limit=3&after=c>; rel=\"next\"";
        assert_eq!(shown(writer), (r#"["a","b","c"]"#.to_owned(), Some(next.to_owned())));

        let mut writer = PageWriter::new(3);
        assert!(!writer.take(page(&[], false), |name| name, |name| name).unwrap());
        assert_eq!(shown(writer), ("[]".to_owned(), None));
    }

    #[test]
    fn an_answer_ends_before_it_is_too_large() {
        let large = |_| "x".repeat(MAX_BYTES * 2 / 3);
        let mut writer = PageWriter::new(9);
        assert!(!writer.take(page(&["a", "b", "c"], false), |name| name, large).unwrap());
        let (json, next) = shown(writer);
        assert_eq!((json.len(), next.as_deref()), (MAX_BYTES * 2 / 3 + 4, Some("<?limit=9&after=a>; rel=\"next\"")));
    }
}
