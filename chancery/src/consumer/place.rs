//! A place in EVENTS as people name it.

use std::str::FromStr;

use anyhow::bail;
use subjects::stream as names;
use time::{OffsetDateTime, format_description::well_known::Rfc3339};

use super::control::Control;
use crate::overview::after_of;

/// A place in EVENTS.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Place {
    /// Its first event.
    Start,
    /// Behind its last event.
    End,
    /// The event with this number.
    Sequence(u64),
    /// The first event that was stored at this time or later.
    Time(OffsetDateTime),
}

impl FromStr for Place {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text {
            "start" => return Ok(Self::Start),
            "end" => return Ok(Self::End),
            _ => {}
        }
        if let Ok(number) = text.parse() {
            return if number == 0 { Err("numbers begin with 1".into()) } else { Ok(Self::Sequence(number)) };
        }
        time(text).map(Self::Time).map_err(|_| "neither a number in EVENTS, nor a time (2026-11-01T00:00:00Z), nor `start` or `end`".into())
    }
}

/// A time as RFC 3339 has it.
pub(super) fn time(text: &str) -> Result<OffsetDateTime, String> {
    OffsetDateTime::parse(text, &Rfc3339).map_err(|error| format!("no time (2026-11-01T00:00:00Z): {error}"))
}

impl Control {
    /// The number of a place: that of the first event at it, or one behind the last.
    pub(super) async fn number(&self, place: Place) -> anyhow::Result<u64> {
        let state = &self.events.cached_info().state;
        let (first, end) = (state.first_sequence.max(1), state.last_sequence + 1);
        Ok(match place {
            Place::Start => first,
            Place::End => end,
            Place::Sequence(number) if number > end => bail!("EVENTS ends with {}", state.last_sequence),
            Place::Sequence(number) => number,
            Place::Time(wanted) => {
                // Times rise with numbers: half the rest with each question.
                let (mut low, mut high) = (first, end);
                while low < high {
                    let middle = low + (high - low) / 2;
                    let found = after_of(&self.client, names::EVENTS, ">".to_owned(), middle - 1).await?;
                    if found.is_some_and(|(_, stored)| stored < wanted) { low = middle + 1 } else { high = middle }
                }
                low
            }
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_place_is_a_number_a_time_or_an_end() {
        assert_eq!("start".parse(), Ok(Place::Start));
        assert_eq!("end".parse(), Ok(Place::End));
        assert_eq!("17".parse(), Ok(Place::Sequence(17)));
        assert_eq!("1970-01-01T00:00:00Z".parse(), Ok(Place::Time(OffsetDateTime::UNIX_EPOCH)));
        for wrong in ["0", "-1", "yesterday", "2026-11-01"] {
            assert!(wrong.parse::<Place>().is_err(), "{wrong}");
        }
    }
}
