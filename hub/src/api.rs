//! The three questions put to the hub: which commit a revision is, which files it has, and a file's
//! contents. Answers are bounded and checked before anything is made of them.

use std::io::Read;

use crate::answer::{self, Remote, next_page};
use crate::error::HubError;
use crate::http::{Answer, Http, text};
use crate::id::{Commit, ModelId, Revision, shortened};
use crate::retry::{Attempts, Failed, unsuccessful};

/// The hub, and the model it is asked about.
#[derive(Clone, Copy)]
pub(crate) struct Api<'a> {
    pub(crate) http: &'a Http,
    pub(crate) endpoint: &'a str,
    pub(crate) model: &'a ModelId,
}

impl Api<'_> {
    /// The commit that a revision is now.
    pub(crate) fn resolve(
        &self,
        revision: &Revision,
        attempts: &Attempts<'_>,
    ) -> Result<Commit, HubError> {
        let address = format!(
            "{}/api/models/{}/revision/{}",
            self.endpoint,
            self.model,
            escaped(revision.as_str(), "")
        );
        let what = format!("{} at revision {revision}", self.model);
        let asked = attempts.run(|| self.ask(&address, &what, attempts, answer::commit));
        asked.map(|(commit, _)| commit)
    }

    /// All files of a commit.
    pub(crate) fn tree(
        &self,
        commit: &Commit,
        attempts: &Attempts<'_>,
    ) -> Result<Vec<Remote>, HubError> {
        let what = format!("{} at commit {commit}", self.model);
        let mut files = Vec::new();
        let mut next = Some(format!(
            "{}/api/models/{}/tree/{commit}?recursive=true",
            self.endpoint, self.model
        ));
        for _ in 0..PAGES_MAX {
            let Some(address) = next else {
                return Ok(files);
            };
            let page = attempts.run(|| self.ask(&address, &what, attempts, answer::files));
            let (page, link) = page?;
            files.extend(page);
            next = match link.as_deref().map(next_page) {
                Some(Some(link)) if self.http.is_home(link) => Some(link.to_owned()),
                Some(Some(_)) => return Err(self.answer("its next page is on another host")),
                _ => None,
            };
        }
        Err(self.answer("more files than a model has"))
    }

    /// One file from byte `offset` on: 200 with all of it, 206 with the rest, or 416.
    pub(crate) fn file(
        &self,
        commit: &Commit,
        file: &Remote,
        offset: u64,
        attempts: &Attempts<'_>,
    ) -> Result<Answer, Failed> {
        let address = format!(
            "{}/{}/resolve/{commit}/{}",
            self.endpoint,
            self.model,
            escaped(&file.path, "/")
        );
        let answer = self.http.get(&address, offset)?;
        let what = format!("{} at commit {commit}: {}", self.model, file.path);
        match answer.status {
            200 | 206 | 416 => {}
            _ => return Err(self.unsuccessful(&answer, &what, attempts)),
        }
        match &answer.commit {
            Some(other) if other != commit.as_str() => {
                let message = format!("{what}: is of commit {:?}", shortened(other));
                Err(self.answer(&message).into())
            }
            _ => Ok(answer),
        }
    }

    /// Asks once; what `read` makes of the answer, and its `Link` header.
    fn ask<T>(
        &self,
        address: &str,
        what: &str,
        attempts: &Attempts<'_>,
        read: impl Fn(&[u8]) -> Result<T, String>,
    ) -> Result<(T, Option<String>), Failed> {
        let answer = self.http.get(address, 0)?;
        if answer.status != 200 {
            return Err(self.unsuccessful(&answer, what, attempts));
        }
        let link = text(&answer.headers, "link");
        let mut bytes = Vec::new();
        let mut body = answer.body.take(JSON_BYTES_MAX + 1);
        let place = answer.place;
        if let Err(error) = body.read_to_end(&mut bytes) {
            let message = error.to_string();
            return Err(HubError::Network { place, message }.into());
        }
        let read = if bytes.len() as u64 > JSON_BYTES_MAX {
            Err(format!("more than {JSON_BYTES_MAX} bytes"))
        } else {
            read(&bytes)
        };
        match read {
            Ok(read) => Ok((read, link)),
            Err(message) => Err(HubError::Answer { place, message }.into()),
        }
    }

    fn unsuccessful(&self, answer: &Answer, what: &str, attempts: &Attempts<'_>) -> Failed {
        let code = text(&answer.headers, "x-error-code").unwrap_or_default();
        match answer.status {
            404 => HubError::NotFound(what.to_owned()).into(),
            status @ (401 | 403) => {
                let hint = self.hint(status, code == "GatedRepo");
                let model = self.model.clone();
                HubError::Refused {
                    model,
                    status,
                    hint,
                }
                .into()
            }
            status => unsuccessful(status, &answer.place, &answer.headers, attempts.clock),
        }
    }

    fn hint(&self, status: u16, gated: bool) -> String {
        if gated || status == 403 && self.http.has_token() {
            let place = format!("{}/{}", self.endpoint, self.model);
            format!(
                "it is gated: accept its conditions at {place} and set HF_TOKEN of that account"
            )
        } else if self.http.has_token() {
            "there is no such model, or the token may not read it".to_owned()
        } else {
            "there is no such model, or it is private or gated and needs HF_TOKEN".to_owned()
        }
    }

    fn answer(&self, message: &str) -> HubError {
        HubError::Answer {
            place: format!("{}/{}", self.endpoint, self.model),
            message: message.to_owned(),
        }
    }
}

/// Percent-encodes all but what never needs it and what is in `kept`.
fn escaped(text: &str, kept: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for byte in text.bytes() {
        let c = char::from(byte);
        if c.is_ascii_alphanumeric() || "-._~".contains(c) || kept.contains(c) {
            out.push(c);
        } else {
            out.push('%');
            for digit in [byte >> 4, byte & 15] {
                out.push(char::from(b"0123456789ABCDEF"[usize::from(digit)]));
            }
        }
    }
    out
}

/// Some hundred times what the longest lists of files have.
const JSON_BYTES_MAX: u64 = 16 << 20;
/// A page has up to 1,000 files.
const PAGES_MAX: usize = 100;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_are_escaped() {
        assert_eq!(escaped("refs/pr/1", ""), "refs%2Fpr%2F1");
        assert_eq!(
            escaped("1_Pooling/a b?#%.json", "/"),
            "1_Pooling/a%20b%3F%23%25.json"
        );
        assert_eq!(escaped("ü", "/"), "%C3%BC");
    }
}
