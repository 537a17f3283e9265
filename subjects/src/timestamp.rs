//! RFC 3339 in UTC with milliseconds: `2026-11-22T10:00:00.123Z`. One precision everywhere, so that texts sort as times do.

use std::borrow::Cow;

use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::{Deserializer, Serializer};
use time::{OffsetDateTime, UtcOffset, format_description::well_known::Rfc3339};

/// The time as text.
pub fn format(time: OffsetDateTime) -> String {
    let time = time.to_offset(UtcOffset::UTC);
    let (year, month, day) = time.to_calendar_date();
    let (hour, minute, second, millisecond) = time.to_hms_milli();
    let mut text = String::with_capacity("2026-11-22T10:00:00.123Z".len());
    let parts = [(year.unsigned_abs(), 4, '-'), (u8::from(month).into(), 2, '-'), (day.into(), 2, 'T'), (hour.into(), 2, ':')];
    let rest = [(minute.into(), 2, ':'), (second.into(), 2, '.'), (millisecond.into(), 3, 'Z')];
    if year < 0 {
        text.push('-');
    }
    for (number, digits, end) in parts.into_iter().chain(rest) {
        push(&mut text, number, digits);
        text.push(end);
    }
    text
}

/// Adds a number in at least so many digits. Every event has a time, and the formatting machinery shows in profiles.
fn push(text: &mut String, number: u32, digits: u32) {
    for place in (0..digits.max(number.checked_ilog10().map_or(1, |log| log + 1))).rev() {
        text.push(char::from(b'0' + (number / 10_u32.pow(place) % 10) as u8));
    }
}

/// Reads any RFC 3339 time.
pub fn parse(text: &str) -> Option<OffsetDateTime> {
    OffsetDateTime::parse(text, &Rfc3339).ok().map(|time| time.to_offset(UtcOffset::UTC))
}

/// The time cut to the milliseconds that the text keeps.
pub fn to_millis(time: OffsetDateTime) -> OffsetDateTime {
    time.replace_millisecond(time.millisecond()).unwrap_or(time)
}

/// For `#[serde(with = "subjects::timestamp")]`.
///
/// # Errors
/// Those of the serializer.
pub fn serialize<S: Serializer>(time: &OffsetDateTime, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.serialize_str(&format(*time))
}

/// For `#[serde(with = "subjects::timestamp")]`.
///
/// # Errors
/// A text that is no RFC 3339 time.
pub fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<OffsetDateTime, D::Error> {
    deserializer.deserialize_str(crate::id::Text("an RFC 3339 time", |text| parse(text).ok_or("not an RFC 3339 time")))
}

/// Stands for such a time in JSON Schemas: `#[schemars(with = "subjects::timestamp::Text")]`.
pub enum Text {}

impl JsonSchema for Text {
    fn schema_name() -> Cow<'static, str> {
        "timestamp".into()
    }

    fn inline_schema() -> bool {
        true
    }

    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        json_schema!({ "type": "string", "format": "date-time" })
    }
}

/// The same for `Option<OffsetDateTime>`.
pub mod option {
    use serde::{Deserialize, Deserializer, Serializer, de};
    use time::OffsetDateTime;

    /// For `#[serde(with = "subjects::timestamp::option")]`.
    ///
    /// # Errors
    /// Those of the serializer.
    pub fn serialize<S: Serializer>(time: &Option<OffsetDateTime>, serializer: S) -> Result<S::Ok, S::Error> {
        match time {
            Some(time) => super::serialize(time, serializer),
            None => serializer.serialize_none(),
        }
    }

    /// For `#[serde(with = "subjects::timestamp::option")]`.
    ///
    /// # Errors
    /// A text that is no RFC 3339 time.
    pub fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<OffsetDateTime>, D::Error> {
        let text = <Option<std::borrow::Cow<'de, str>>>::deserialize(deserializer)?;
        text.map(|text| super::parse(&text).ok_or_else(|| de::Error::custom("not an RFC 3339 time"))).transpose()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_time_reads_back_what_it_prints() {
        assert_eq!(parse("2026-11-22T10:00:00.120Z").map(format).as_deref(), Some("2026-11-22T10:00:00.120Z"));
        assert_eq!(parse("2026-11-22T12:00:00+02:00").map(format).as_deref(), Some("2026-11-22T10:00:00.000Z"));
        assert_eq!(parse("yesterday"), None);
    }

    #[test]
    fn every_part_of_a_time_has_its_digits() {
        assert_eq!(format(OffsetDateTime::UNIX_EPOCH), "1970-01-01T00:00:00.000Z");
        assert_eq!(format(time::macros::datetime!(2026-12-31 23:59:59.009 UTC)), "2026-12-31T23:59:59.009Z");
        assert_eq!(format(time::macros::datetime!(0987-06-05 04:03:02.1 UTC)), "0987-06-05T04:03:02.100Z");
    }
}
