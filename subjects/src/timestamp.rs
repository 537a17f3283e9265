//! RFC 3339 in UTC with milliseconds: `2026-11-22T10:00:00.123Z`. One precision everywhere, so that texts sort as times do.

use serde::{Deserialize, Deserializer, Serializer, de};
use time::{OffsetDateTime, UtcOffset, format_description::well_known::Rfc3339};

/// The time as text.
pub fn format(time: OffsetDateTime) -> String {
    let time = time.to_offset(UtcOffset::UTC);
    format!(
        "{:04}-{:02}-{:02}T{:02}:{:02}:{:02}.{:03}Z",
        time.year(),
        u8::from(time.month()),
        time.day(),
        time.hour(),
        time.minute(),
        time.second(),
        time.millisecond()
    )
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
    let text = <std::borrow::Cow<'de, str>>::deserialize(deserializer)?;
    parse(&text).ok_or_else(|| de::Error::custom("not an RFC 3339 time"))
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
}
