//! `chancery mail latest`: the newest mail that `up` has put into a folder, readable.

use std::{
    fs,
    path::{Path, PathBuf},
    time::{Duration, Instant},
};

use anyhow::{Context as _, bail};
use base64::{Engine as _, engine::general_purpose::STANDARD};
use runtime::Config;

/// How long a mail is waited for.
const PATIENCE: Duration = Duration::from_secs(10);

/// The folder where mail lands: the one of `CHANCERY_MAIL=file://…`, else `mail` among the data.
pub fn folder(config: &Config) -> PathBuf {
    let configured = config.mail.as_ref().and_then(|mail| mail.expose().strip_prefix("file://").map(PathBuf::from));
    configured.unwrap_or_else(|| config.data.join("mail"))
}

/// The newest mail in `folder`, or the newest to an address: its headers that matter and its text. A mail follows its command a little
/// later, so one that is not there yet is waited for.
///
/// # Errors
/// There is no such mail.
pub fn latest(folder: &Path, to: Option<&str>) -> anyhow::Result<String> {
    let deadline = Instant::now() + PATIENCE;
    loop {
        if let Some(mail) = newest(folder, to)? {
            return Ok(mail);
        }
        if Instant::now() > deadline {
            let whom = to.map(|address| format!(" to {address}")).unwrap_or_default();
            bail!("no mail{whom} in {} within {} s", folder.display(), PATIENCE.as_secs());
        }
        std::thread::sleep(Duration::from_millis(50));
    }
}

fn newest(folder: &Path, to: Option<&str>) -> anyhow::Result<Option<String>> {
    let mails = fs::read_dir(folder).into_iter().flatten().filter_map(Result::ok).map(|entry| entry.path());
    let mails = mails.filter(|path| path.extension().is_some_and(|kind| kind == "eml"));
    let mut mails: Vec<_> = mails.map(|path| (fs::metadata(&path).and_then(|meta| meta.modified()).ok(), path)).collect();
    mails.sort();
    for (_, path) in mails.iter().rev() {
        let raw = fs::read(path).with_context(|| format!("reading {}", path.display()))?;
        let mail = readable(&String::from_utf8_lossy(&raw));
        if to.is_none_or(|address| mail.lines().any(|line| line.starts_with("To: ") && line.contains(address))) {
            return Ok(Some(mail));
        }
    }
    Ok(None)
}

/// The token of that mail's link.
///
/// # Errors
/// There is no such mail, or it holds no token.
pub fn latest_token(folder: &Path, to: Option<&str>) -> anyhow::Result<String> {
    token_in(&latest(folder, to)?).context("the newest mail holds no token")
}

/// What follows `token=`, else the last word that is as long as a token: 32 bytes in base64url.
fn token_in(text: &str) -> Option<String> {
    const LENGTH: usize = 43;
    let part_of_token = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '_');
    if let Some(rest) = text.split("token=").nth(1) {
        return Some(rest.chars().take_while(|c| part_of_token(*c)).collect());
    }
    // A tenant's id happens to have that length, too.
    let mut words = text.split(|c| !part_of_token(c)).filter(|word| word.len() == LENGTH && !word.starts_with("tenant_"));
    words.next_back().map(str::to_owned)
}

/// Headers and the first plain text part, decoded. Not a mail reader: it reads what our own notifier writes.
fn readable(raw: &str) -> String {
    let raw = raw.replace("\r\n", "\n");
    let (head, body) = raw.split_once("\n\n").unwrap_or((&raw, ""));
    let shown = ["From", "To", "Subject", "Date"];
    let headers: String = shown.iter().filter_map(|name| Some(format!("{name}: {}\n", header(head, name)?))).collect();
    format!("{headers}\n{}", text(head, body).trim_end())
}

fn text(head: &str, body: &str) -> String {
    let kind = header(head, "Content-Type").unwrap_or_default();
    if let Some(boundary) = kind.split("boundary=").nth(1).map(|rest| rest.split(';').next().unwrap_or(rest).trim().trim_matches('"')) {
        let separator = format!("--{boundary}");
        let parts = body.split(&separator).filter_map(|part| part.trim_start_matches('\n').split_once("\n\n"));
        let all: Vec<(&str, &str)> = parts.collect();
        let plain = all.iter().find(|(head, _)| header(head, "Content-Type").is_none_or(|kind| !kind.contains("html")));
        return plain.or(all.first()).map(|(head, body)| text(head, body)).unwrap_or_default();
    }
    match header(head, "Content-Transfer-Encoding").unwrap_or_default().to_ascii_lowercase().as_str() {
        "base64" => decode_base64(&body.split_whitespace().collect::<String>()).unwrap_or_else(|| body.to_owned()),
        "quoted-printable" => decode_quoted(body),
        _ => body.to_owned(),
    }
}

/// A header's value, folded lines joined, encoded words decoded.
fn header(head: &str, name: &str) -> Option<String> {
    let unfolded = head.replace("\n ", " ").replace("\n\t", " ");
    let line = unfolded.lines().find(|line| line.get(..name.len() + 1).is_some_and(|start| start.eq_ignore_ascii_case(&format!("{name}:"))))?;
    let value = line[name.len() + 1..].trim();
    let words = value.split(' ').map(|word| encoded_word(word).unwrap_or_else(|| format!("{word} ")));
    Some(words.collect::<String>().trim_end().to_owned())
}

fn encoded_word(word: &str) -> Option<String> {
    let inner = word.strip_prefix("=?utf-8?").or_else(|| word.strip_prefix("=?UTF-8?"))?.strip_suffix("?=")?;
    match inner.split_once('?')? {
        ("b" | "B", text) => decode_base64(text),
        ("q" | "Q", text) => Some(decode_quoted(&text.replace('_', " "))),
        _ => None,
    }
}

fn decode_base64(text: &str) -> Option<String> {
    STANDARD.decode(text).ok().map(|bytes| String::from_utf8_lossy(&bytes).into_owned())
}

fn decode_quoted(text: &str) -> String {
    let joined = text.replace("=\n", "");
    let mut bytes = Vec::with_capacity(joined.len());
    let mut rest = joined.as_bytes();
    while let [first, tail @ ..] = rest {
        let pair = tail.get(..2).and_then(|pair| u8::from_str_radix(std::str::from_utf8(pair).ok()?, 16).ok());
        match (first, pair) {
            (b'=', Some(byte)) => {
                bytes.push(byte);
                rest = &tail[2..];
            }
            _ => {
                bytes.push(*first);
                rest = tail;
            }
        }
    }
    String::from_utf8_lossy(&bytes).into_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_mail_in_two_parts_shows_its_text() {
        let mail = "To: bob@example.org\r\nSubject: =?utf-8?b?SGVsbG8gQm9i?=\r\nContent-Type: multipart/alternative;\r\n boundary=\"xx\"\r\n\r\n\
                    --xx\r\nContent-Type: text/plain; charset=utf-8\r\nContent-Transfer-Encoding: quoted-printable\r\n\r\nGr=C3=BC=C3=9Fe token=3Dabc=\r\ndef\r\n\
                    --xx\r\nContent-Type: text/html\r\n\r\n<p>no</p>\r\n--xx--\r\n";
        assert_eq!(token_in(&readable(mail)).as_deref(), Some("abcdef"));
        let link = format!("see http://localhost/i/{} in tenant_01890a5d-ac96-774b-bcce-b302099a8057", "t".repeat(43));
        assert_eq!(token_in(&link), Some("t".repeat(43)));
        assert_eq!(readable(mail), "To: bob@example.org\nSubject: Hello Bob\n\nGrüße token=abcdef");
    }
}
