//! Which traces are kept.

use std::{fmt, str::FromStr};

/// Which of the traces that begin here are kept, by the names of OpenTelemetry. A trace that a caller began is kept where the caller keeps it:
/// otherwise it would have holes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Sampler {
    /// All.
    All,
    /// None.
    None,
    /// A share of them.
    Share,
}

impl Sampler {
    /// What the variable takes.
    pub(super) const EXPECTED: &'static str = "one of parentbased_always_on, parentbased_always_off, parentbased_traceidratio";
}

impl FromStr for Sampler {
    type Err = ();

    fn from_str(text: &str) -> Result<Self, ()> {
        match text {
            "parentbased_always_on" => Ok(Self::All),
            "parentbased_always_off" => Ok(Self::None),
            "parentbased_traceidratio" => Ok(Self::Share),
            _ => Err(()),
        }
    }
}

impl fmt::Display for Sampler {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::All => "parentbased_always_on",
            Self::None => "parentbased_always_off",
            Self::Share => "parentbased_traceidratio",
        })
    }
}

#[cfg(test)]
mod tests {
    use super::{
        super::{Config, ConfigError},
        *,
    };

    fn read(pairs: &[(&str, &str)]) -> Result<(Sampler, f64), ConfigError> {
        let config = Config::from_lookup(&|name| pairs.iter().find(|(key, _)| *key == name).map(|(_, value)| (*value).to_owned()))?;
        Ok((config.sampler, config.sampled))
    }

    #[test]
    fn the_names_of_opentelemetry_choose_the_sampler() -> Result<(), ConfigError> {
        assert_eq!(read(&[])?, (Sampler::All, 1.0));
        for sampler in [Sampler::All, Sampler::None, Sampler::Share] {
            assert_eq!(read(&[("OTEL_TRACES_SAMPLER", &sampler.to_string()), ("OTEL_TRACES_SAMPLER_ARG", "0.25")])?, (sampler, 0.25));
        }
        Ok(())
    }

    #[test]
    fn a_sampler_that_would_leave_holes_in_a_callers_trace_is_refused() {
        for wrong in [("OTEL_TRACES_SAMPLER", "always_on"), ("OTEL_TRACES_SAMPLER", "traceidratio"), ("OTEL_TRACES_SAMPLER_ARG", "-1")] {
            assert!(read(&[wrong]).is_err(), "{wrong:?}");
        }
    }
}
