//! Request bodies: read once, checked whole.
//!
//! The quick way is serde's. Only where it fails (or where NUL may hide) the body is read again as plain JSON to name every wrong place.

use axum::{
    body::Bytes,
    extract::{FromRequest, Request},
    http::{HeaderMap, header},
};
use http_body_util::{BodyExt as _, LengthLimitError, Limited};
use serde::de::DeserializeOwned;
use serde_json::{Map, Value};

use crate::{
    gateway::Gateway,
    problem::{Code, FieldError, Problem},
};

/// A body's form. Its serde form denies unknown fields; `check` names the same fields once more, for the diagnosis.
pub(crate) trait Form: DeserializeOwned + Send {
    /// Whether no body at all means the same as an empty object.
    const OPTIONAL: bool = false;
    /// Whether the values are read one by one later, each as a form of its own, so that what is wrong with one costs the others nothing.
    const PIECEMEAL: bool = false;

    /// Names every field with its type.
    fn check(fields: &mut Fields<'_>);
}

/// A request's body: what it says, and its bytes for the fingerprint.
#[derive(Debug)]
pub(crate) struct Body<T> {
    /// What it says.
    pub(crate) data: T,
    /// As it was sent.
    pub(crate) bytes: Bytes,
}

impl<T: Form> FromRequest<Gateway> for Body<T> {
    type Rejection = Problem;

    async fn from_request(request: Request, gateway: &Gateway) -> Result<Self, Problem> {
        let (parts, body) = request.into_parts();
        let limit = gateway.config.body_limit;
        let too_large = || Problem::new(Code::TooLarge).detail(format!("a body may have {limit} bytes"));
        let declared = parts.headers.get(header::CONTENT_LENGTH).and_then(|value| value.to_str().ok()?.parse::<u64>().ok());
        if declared.is_some_and(|length| length > limit as u64) {
            return Err(too_large());
        }
        let bytes = Limited::new(body, limit).collect().await.map_err(|error| {
            if error.is::<LengthLimitError>() { too_large() } else { Problem::new(Code::Malformed).detail("the body could not be read to its end") }
        })?;
        let bytes = bytes.to_bytes();
        if bytes.is_empty() && T::OPTIONAL {
            return Ok(Self { data: read(b"{}")?, bytes });
        }
        if !is_json(&parts.headers) {
            return Err(Problem::new(Code::UnsupportedMediaType));
        }
        Ok(Self { data: read(&bytes)?, bytes })
    }
}

fn is_json(headers: &HeaderMap) -> bool {
    let media = headers.get(header::CONTENT_TYPE).and_then(|value| value.to_str().ok()).unwrap_or_default();
    let (essence, parameters) = media.split_once(';').unwrap_or((media, ""));
    let charset =
        parameters.split(';').filter_map(|parameter| parameter.trim().split_once('=')).find(|(name, _)| name.eq_ignore_ascii_case("charset"));
    essence.trim().eq_ignore_ascii_case("application/json") && charset.is_none_or(|(_, set)| set.trim_matches('"').eq_ignore_ascii_case("utf-8"))
}

/// Reads a body.
///
/// # Errors
/// The problem names every wrong place.
pub(crate) fn read<T: Form>(bytes: &[u8]) -> Result<T, Problem> {
    let quick = serde_json::from_slice::<T>(bytes);
    // NUL has one spelling in JSON; the escape alone proves nothing, its backslash may itself be escaped.
    let suspicious = bytes.windows(6).any(|window| window == b"\\u0000");
    match quick {
        Ok(data) if !suspicious => Ok(data),
        quick => {
            let value = serde_json::from_slice(bytes).map_err(|error| {
                let place = format!("it is not JSON at line {} column {}", error.line(), error.column());
                Problem::new(Code::Malformed).detail(place).errors(vec![FieldError::new("", "must be JSON")])
            })?;
            diagnose::<T>(value)?;
            quick.map_err(|error| {
                let place = format!("it cannot be read at line {} column {}", error.line(), error.column());
                Problem::new(Code::Malformed).detail(place)
            })
        }
    }
}

fn diagnose<T: Form>(value: Value) -> Result<(), Problem> {
    let Value::Object(mut object) = value else {
        return Err(Problem::new(Code::Malformed).errors(vec![FieldError::new("", "must be an object")]));
    };
    let mut report = Report::default();
    for (name, value) in object.iter().filter(|_| !T::PIECEMEAL) {
        report.forbid_nul(&format!("/{}", escaped(name)), name, value);
    }
    Fields::read(&mut object, String::new(), &mut report, T::check);
    match (report.unknown, report.errors.is_empty()) {
        (true, _) => Err(Problem::new(Code::Malformed).errors(report.errors)),
        (false, false) => Err(Problem::new(Code::ValidationFailed).errors(report.errors)),
        (false, true) => Ok(()),
    }
}

/// A name as a step of a JSON pointer (RFC 6901); long ones are cut, they are the caller's own.
pub(crate) fn escaped(name: &str) -> String {
    name.chars().take(100).collect::<String>().replace('~', "~0").replace('/', "~1")
}

/// What was found wrong.
#[derive(Debug, Default)]
pub(crate) struct Report {
    errors: Vec<FieldError>,
    unknown: bool,
}

impl Report {
    fn forbid_nul(&mut self, pointer: &str, name: &str, value: &Value) {
        if name.contains('\0') {
            self.errors.push(FieldError::new(pointer.replace('\0', "\u{fffd}"), "must not contain NUL"));
        }
        match value {
            Value::String(text) if text.contains('\0') => self.errors.push(FieldError::new(pointer, "must not contain NUL")),
            Value::Array(items) => {
                for (index, item) in items.iter().enumerate() {
                    self.forbid_nul(&format!("{pointer}/{index}"), "", item);
                }
            }
            Value::Object(object) => {
                for (name, value) in object {
                    self.forbid_nul(&format!("{pointer}/{}", escaped(name)), name, value);
                }
            }
            _ => {}
        }
    }
}

/// The fields of one object, taken out as they are named; what is left is unknown.
pub(crate) struct Fields<'a> {
    object: &'a mut Map<String, Value>,
    pointer: String,
    report: &'a mut Report,
}

impl Fields<'_> {
    fn read(object: &mut Map<String, Value>, pointer: String, report: &mut Report, check: fn(&mut Fields<'_>)) {
        let mut fields = Fields { object, pointer, report };
        check(&mut fields);
        let Fields { object, pointer, report } = fields;
        for name in object.keys() {
            report.unknown = true;
            report.errors.push(FieldError::new(format!("{pointer}/{}", escaped(name)), "is not a field of this request"));
        }
    }

    fn wrong(&mut self, name: &str, detail: impl Into<String>) {
        let pointer = format!("{}/{name}", self.pointer);
        // One sentence a place is enough.
        if !self.report.errors.iter().any(|error| error.pointer == pointer) {
            self.report.errors.push(FieldError::new(pointer, detail));
        }
    }

    /// A field that must be there.
    pub(crate) fn required<T: DeserializeOwned>(&mut self, name: &str) {
        match self.object.remove(name) {
            None | Some(Value::Null) => self.wrong(name, "is required"),
            Some(value) => self.value::<T>(name, value),
        }
    }

    /// A field that may be missing, or null.
    pub(crate) fn optional<T: DeserializeOwned>(&mut self, name: &str) {
        match self.object.remove(name) {
            None | Some(Value::Null) => {}
            Some(value) => self.value::<T>(name, value),
        }
    }

    /// A field that must be there and may be null.
    pub(crate) fn any(&mut self, name: &str) {
        if self.object.remove(name).is_none() {
            self.wrong(name, "is required");
        }
    }

    /// An object that must be there.
    pub(crate) fn object(&mut self, name: &str, check: fn(&mut Fields<'_>)) {
        match self.object.remove(name) {
            None | Some(Value::Null) => self.wrong(name, "is required"),
            Some(Value::Object(mut object)) => Fields::read(&mut object, format!("{}/{name}", self.pointer), self.report, check),
            Some(_) => self.wrong(name, "must be an object"),
        }
    }

    /// An object that may be missing, or null.
    pub(crate) fn optional_object(&mut self, name: &str, check: fn(&mut Fields<'_>)) {
        if self.object.get(name).is_some_and(|value| !value.is_null()) {
            self.object(name, check);
        } else {
            self.object.remove(name);
        }
    }

    fn value<T: DeserializeOwned>(&mut self, name: &str, value: Value) {
        if let Err(error) = serde_json::from_value::<T>(value) {
            self.wrong(name, sentence(&error.to_string()));
        }
    }
}

/// What serde says about a value, as a sentence for people that does not repeat the value.
fn sentence(error: &str) -> String {
    if let Some((_, choices)) = error.split_once("expected one of ") {
        return format!("must be one of {}", choices.replace('`', ""));
    }
    if error.starts_with("unknown variant") {
        return "is not one of the values allowed".into();
    }
    match error.split_once(", expected ") {
        Some((_, expected)) => format!("must be {expected}"),
        None => error.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use aggregates::text::{Email, Line, Slug};
    use serde::Deserialize;

    use super::*;

    #[derive(Debug, Deserialize)]
    #[serde(deny_unknown_fields, rename_all = "camelCase")]
    #[expect(dead_code, reason = "only read")]
    struct Sample {
        slug: Slug,
        full_name: Line,
        #[serde(default)]
        free: Option<Value>,
        owner: Inner,
    }

    #[derive(Debug, Deserialize)]
    #[serde(deny_unknown_fields)]
    #[expect(dead_code, reason = "only read")]
    struct Inner {
        email: Email,
    }

    impl Form for Sample {
        fn check(fields: &mut Fields<'_>) {
            fields.required::<Slug>("slug");
            fields.required::<Line>("fullName");
            fields.optional::<Value>("free");
            fields.object("owner", |fields| fields.required::<Email>("email"));
        }
    }

    fn errors(body: &str) -> (&'static str, Vec<(String, String)>) {
        let problem = read::<Sample>(body.as_bytes()).expect_err(body);
        (problem.code().name(), problem.body().errors.into_iter().map(|error| (error.pointer, error.detail)).collect())
    }

    fn pairs(pairs: &[(&str, &str)]) -> Vec<(String, String)> {
        pairs.iter().map(|(a, b)| ((*a).to_owned(), (*b).to_owned())).collect()
    }

    #[test]
    fn a_good_body_is_read() {
        assert!(read::<Sample>(br#"{"slug":"acme","fullName":"Acme","owner":{"email":"a@b.example"}}"#).is_ok());
    }

    #[test]
    fn every_invalid_value_is_named_at_once() {
        assert_eq!(
            errors(r#"{"slug":5,"owner":{"email":"nobody"}}"#),
            (
                "validation_failed",
                pairs(&[("/fullName", "is required"), ("/owner/email", "must be an e-mail address"), ("/slug", "must be a string")])
            )
        );
    }

    #[test]
    fn unknown_fields_are_malformed_and_named_with_the_rest() {
        assert_eq!(
            errors(r#"{"slug":"acme","fullName":"Acme","owner":{"email":"a@b.example","age/x":1},"role":"owner"}"#),
            ("malformed", pairs(&[("/owner/age~1x", "is not a field of this request"), ("/role", "is not a field of this request")]))
        );
    }

    #[test]
    fn what_is_not_json_is_malformed() {
        for body in ["", "{", "{\"slug\":\"acme\"", "nul", "\u{1f600}", "[]", "\"acme\"", &"[".repeat(10_000), "{\"slug\":\"\0\"}"] {
            assert_eq!(read::<Sample>(body.as_bytes()).expect_err(body).code().name(), "malformed", "{body}");
        }
        assert_eq!(read::<Sample>(b"{\"slug\":\"\xff\"}").expect_err("bytes").code().name(), "malformed");
        let twice = br#"{"slug":"acme","slug":"acme","fullName":"Acme","owner":{"email":"a@b.example"}}"#;
        assert_eq!(read::<Sample>(twice).expect_err("twice").code().name(), "malformed");
    }

    #[test]
    fn nul_is_found_wherever_it_hides() {
        let body = r#"{"slug":"acme","fullName":"Acme","owner":{"email":"a@b.example"},"free":{"a":["x","\u0000"]}}"#;
        assert_eq!(errors(body), ("validation_failed", pairs(&[("/free/a/1", "must not contain NUL")])));
        let escaped = r#"{"slug":"acme","fullName":"Acme","owner":{"email":"a@b.example"},"free":"\\u0000"}"#;
        assert!(read::<Sample>(escaped.as_bytes()).is_ok());
    }

    #[test]
    fn strings_of_ten_thousand_characters_are_invalid_and_not_repeated() {
        let long = "x".repeat(10_000);
        let (code, errors) = errors(&format!(r#"{{"slug":"{long}","fullName":"{long}","owner":{{"email":"{long}@b.example"}}}}"#));
        assert_eq!((code, errors.len()), ("validation_failed", 3));
        assert!(errors.iter().all(|(_, detail)| detail.len() < 200));
    }

    #[test]
    fn only_json_in_utf8_is_json() {
        let is = |media: &str| is_json(&HeaderMap::from_iter([(header::CONTENT_TYPE, media.parse().unwrap())]));
        assert!(is("application/json") && is("Application/JSON; charset=UTF-8"));
        assert!(!is("text/plain") && !is("application/json; charset=latin1") && !is_json(&HeaderMap::new()));
    }
}
