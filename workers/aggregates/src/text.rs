//! Texts that come from people, checked once where they enter and carried as types from there on.

use std::{fmt, str::FromStr};

use serde::{Deserialize, Serialize};
use unicode_normalization::UnicodeNormalization;

/// Why a text is refused; a sentence for the person who sent it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct TextError(&'static str);

/// Unicode's composed form. ASCII is in it already.
fn nfc(text: &str) -> String {
    if text.is_ascii() { text.to_owned() } else { text.nfc().collect() }
}

fn has_control(text: &str) -> bool {
    text.chars().any(char::is_control)
}

/// An e-mail address, in the form in which addresses are compared: trimmed, NFC, lower case, the domain in IDNA's ASCII form.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Email(String);

impl Email {
    /// The longest address, in bytes (RFC 5321).
    pub const MAX: usize = 254;

    /// The address.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// What stands before the `@`.
    pub fn local_part(&self) -> &str {
        self.0.rsplit_once('@').map_or(&self.0, |(local, _)| local)
    }

    /// An address out of a state: checked when it entered, and not again, as rules for what enters may become stricter.
    pub(crate) fn stored(text: &str) -> Self {
        Self(text.to_owned())
    }
}

impl FromStr for Email {
    type Err = TextError;

    fn from_str(text: &str) -> Result<Self, TextError> {
        let shape = TextError("must be an e-mail address");
        let text = text.trim();
        if text.len() > Self::MAX * 2 {
            return Err(TextError("must be at most 254 bytes long"));
        }
        let text = nfc(text).to_lowercase();
        let (local, domain) = text.rsplit_once('@').ok_or(shape)?;
        let dots_fit = |part: &str| !part.starts_with('.') && !part.ends_with('.') && !part.contains("..");
        let local_fits = !local.is_empty()
            && local.len() <= 64
            && dots_fit(local)
            && local
                .chars()
                .all(|c| c.is_alphanumeric() || (!c.is_ascii() && !c.is_whitespace() && !c.is_control()) || "!#$%&'*+-/=?^_`{|}~.".contains(c));
        if !local_fits {
            return Err(shape);
        }
        let domain = idna::domain_to_ascii_strict(domain).map_err(|_| shape)?;
        if !domain.contains('.') && domain != "localhost" || !dots_fit(&domain) || domain.is_empty() {
            return Err(shape);
        }
        let address = format!("{local}@{domain}");
        if address.len() > Self::MAX {
            return Err(TextError("must be at most 254 bytes long"));
        }
        Ok(Self(address))
    }
}

/// A tenant's short name: `[a-z0-9](-?[a-z0-9]){2,62}`, and not a reserved word.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Slug(String);

/// Words that would be taken for something of ours.
pub const RESERVED_SLUGS: [&str; 26] = [
    "admin",
    "administrator",
    "api",
    "app",
    "assets",
    "audit",
    "auth",
    "chancery",
    "dashboard",
    "docs",
    "help",
    "internal",
    "invitations",
    "login",
    "logout",
    "mail",
    "metrics",
    "platform",
    "root",
    "security",
    "signup",
    "status",
    "support",
    "system",
    "tenants",
    "www",
];

impl Slug {
    /// The slug.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl FromStr for Slug {
    type Err = TextError;

    fn from_str(text: &str) -> Result<Self, TextError> {
        let letters = text.bytes().filter(|byte| *byte != b'-').count();
        let fits = (3..=63).contains(&letters)
            && text.bytes().all(|byte| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'-')
            && !text.starts_with('-')
            && !text.ends_with('-')
            && !text.contains("--");
        if !fits {
            return Err(TextError("must be 3 to 63 lower-case letters or digits, with single hyphens between them"));
        }
        if RESERVED_SLUGS.contains(&text) {
            return Err(TextError("is a reserved word"));
        }
        Ok(Self(text.to_owned()))
    }
}

/// A name or a reason: 1 to 200 characters without control characters, trimmed.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Line(String);

impl Line {
    /// The longest line, in characters.
    pub const MAX: usize = 200;

    /// A line out of a state: checked when it entered.
    pub(crate) fn stored(text: &str) -> Self {
        Self(text.to_owned())
    }

    /// The text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl FromStr for Line {
    type Err = TextError;

    fn from_str(text: &str) -> Result<Self, TextError> {
        let text = text.trim();
        if text.is_empty() {
            return Err(TextError("must not be empty"));
        }
        if has_control(text) {
            return Err(TextError("must not contain control characters"));
        }
        let text = nfc(text);
        if text.len() > Self::MAX && text.chars().count() > Self::MAX {
            return Err(TextError("must be at most 200 characters long"));
        }
        Ok(Self(text))
    }
}

/// The identifier of an OpenID Connect issuer: an `https` URL without query or fragment, at most 512 bytes (OpenID Connect Core 1.0, 1.2).
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Issuer(String);

impl Issuer {
    /// The longest issuer, in bytes.
    pub const MAX: usize = 512;

    /// The URL.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl FromStr for Issuer {
    type Err = TextError;

    fn from_str(text: &str) -> Result<Self, TextError> {
        const SHAPE: TextError = TextError("must be an https URL without user, query or fragment, at most 512 bytes long");
        let rest = text.strip_prefix("https://").ok_or(SHAPE)?;
        let (authority, path) = rest.split_once('/').unwrap_or((rest, ""));
        let (host, port) = authority.rsplit_once(':').map_or((authority, None), |(host, port)| (host, Some(port)));
        let host_fits = idna::domain_to_ascii_strict(host).is_ok_and(|ascii| !ascii.is_empty() && ascii == host);
        let port_fits = port.is_none_or(|port| port.parse::<u16>().is_ok_and(|number| number > 0));
        let path_fits = path.bytes().all(|byte| byte.is_ascii_graphic() && !b"?#\"<>\\^`{|}".contains(&byte));
        if text.len() <= Self::MAX && host_fits && port_fits && path_fits { Ok(Self(text.to_owned())) } else { Err(SHAPE) }
    }
}

/// A key of an invitation's attributes: `[A-Za-z0-9_.-]{1,64}`.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct AttributeKey(String);

impl AttributeKey {
    /// The key.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl FromStr for AttributeKey {
    type Err = TextError;

    fn from_str(text: &str) -> Result<Self, TextError> {
        let fits = (1..=64).contains(&text.len()) && text.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"_.-".contains(&byte));
        if fits { Ok(Self(text.to_owned())) } else { Err(TextError("must be 1 to 64 letters, digits, '_', '.' or '-'")) }
    }
}

/// The types share their conversions; each keeps one spelling of the check, in its `FromStr`.
macro_rules! text_conversions {
    ($($name:ident),*) => {$(
        impl TryFrom<String> for $name {
            type Error = TextError;
            fn try_from(text: String) -> Result<Self, TextError> {
                text.parse()
            }
        }
        impl From<$name> for String {
            fn from(text: $name) -> Self {
                text.0
            }
        }
        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(&self.0)
            }
        }
    )*};
}
text_conversions!(Email, Slug, Line, Issuer, AttributeKey);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_that_differ_in_case_form_or_idna_are_the_same() {
        let same = |a: &str, b: &str| assert_eq!(a.parse::<Email>(), b.parse::<Email>(), "{a} {b}");
        same(" Ann@Example.COM ", "ann@example.com");
        same("ann@b\u{fc}cher.example", "ann@xn--bcher-kva.example");
        same("jose\u{301}@example.com", "jos\u{e9}@example.com");
    }

    #[test]
    fn what_is_no_address_is_refused() {
        for text in [
            "",
            "ann",
            "@example.com",
            "ann@",
            "a nn@example.com",
            "ann@exa mple.com",
            "ann@example",
            "a\0@example.com",
            ".a@b.c",
            "a..b@c.d",
            "a@b..c",
        ] {
            assert!(text.parse::<Email>().is_err(), "{text:?}");
        }
        assert!(format!("{}@example.com", "a".repeat(10_000)).parse::<Email>().is_err());
    }

    #[test]
    fn slugs_follow_the_contract() {
        for text in ["abc", "a1b", "a-b-c", "acme-2"] {
            assert!(text.parse::<Slug>().is_ok(), "{text}");
        }
        for text in ["ab", "", "-abc", "abc-", "a--bc", "Abc", "a.bc", "a_bc", "admin", "\u{1f600}abc", "a*c", "a>c"] {
            assert!(text.parse::<Slug>().is_err(), "{text}");
        }
        assert!("a".repeat(63).parse::<Slug>().is_ok());
        assert!("a".repeat(64).parse::<Slug>().is_err());
    }

    #[test]
    fn an_issuer_is_an_https_url_and_nothing_more() {
        for text in ["https://login.example.com", "https://login.example.com/", "https://a.example:8443/realms/one", "https://xn--bcher-kva.example"]
        {
            assert_eq!(text.parse::<Issuer>().map(String::from), Ok(text.to_owned()));
        }
        let long = format!("https://a.example/{}", "x".repeat(512));
        for text in [
            "",
            "https://",
            "http://a.example",
            "https:///x",
            "https://a b.example",
            "https://u@a.example",
            "https://a.example:0",
            "https://a.example:x",
            "https://a.example/?q",
            "https://a.example/#f",
            "https://A.example",
            "https://a.example/\n",
            "javascript:alert(1)",
            &long,
        ] {
            assert!(text.parse::<Issuer>().is_err(), "{text:?}");
        }
    }

    #[test]
    fn a_line_has_no_control_characters_and_an_end() {
        assert_eq!(" Ann \u{1f600} ".parse::<Line>().map(String::from), Ok("Ann \u{1f600}".to_owned()));
        for text in ["", "   ", "a\0b", "a\nb", &"x".repeat(201), &"x".repeat(10_000)] {
            assert!(text.parse::<Line>().is_err());
        }
    }
}
