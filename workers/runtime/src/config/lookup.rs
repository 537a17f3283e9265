//! Reading variables, and remembering what was read.

use std::{cell::RefCell, time::Duration};

use super::{ConfigError, Secret, variables};

/// What a variable comes to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Setting {
    /// The variable.
    pub name: &'static str,
    /// Its value as it could be set; `<redacted>` for a secret that is set, none for what is unset and has no default.
    pub value: Option<String>,
    /// What it takes: `a number of bytes`.
    pub takes: &'static str,
    /// Whether it is a secret.
    pub secret: bool,
    /// Where the value is from.
    pub source: Source,
}

/// Where a value is from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Source {
    /// Nobody set it.
    Default,
    /// The variable itself.
    Environment,
    /// The file that the variable's `_FILE` variant names.
    File(String),
}

impl std::fmt::Display for Source {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Default => f.write_str("default"),
            Self::Environment => f.write_str("environment"),
            Self::File(path) => write!(f, "file {path}"),
        }
    }
}

/// A source of variables that notes what each was read as.
pub(super) struct Lookup<'a> {
    ask: &'a dyn Fn(&str) -> Option<String>,
    read: RefCell<Vec<Setting>>,
}

impl<'a> Lookup<'a> {
    pub(super) fn new(ask: &'a dyn Fn(&str) -> Option<String>) -> Self {
        Self { ask, read: RefCell::default() }
    }

    /// What was read, in the order of the fields.
    pub(super) fn settings(&self) -> Vec<Setting> {
        let mut settings = self.read.borrow().clone();
        let place = |setting: &Setting| variables().iter().position(|variable| variable.name == setting.name);
        settings.sort_by_key(|setting| place(setting).unwrap_or(usize::MAX));
        settings
    }

    /// Notes what a variable came to; the last time counts.
    fn note(&self, setting: Setting) {
        let mut read = self.read.borrow_mut();
        match read.iter_mut().find(|known| known.name == setting.name) {
            Some(known) => *known = setting,
            None => read.push(setting),
        }
    }

    fn noted(&self, name: &'static str, takes: &'static str, set: Option<&str>, default: Option<String>) {
        let source = if set.is_some() { Source::Environment } else { Source::Default };
        self.note(Setting { name, value: set.map(str::to_owned).or(default), takes, secret: false, source });
    }

    fn ask(&self, name: &str) -> Option<String> {
        (self.ask)(name).filter(|value| !value.is_empty())
    }

    /// A text that may be missing.
    pub(super) fn text(&self, name: &'static str) -> Option<String> {
        let value = self.ask(name);
        self.noted(name, "text", value.as_deref(), None);
        value
    }

    pub(super) fn text_or(&self, name: &'static str, default: &str) -> String {
        let value = self.ask(name);
        self.noted(name, "text", value.as_deref(), Some(default.to_owned()));
        value.unwrap_or_else(|| default.to_owned())
    }

    pub(super) fn parsed<T: std::str::FromStr + ToString>(&self, name: &'static str, expected: &'static str, default: T) -> Result<T, ConfigError> {
        let value = self.ask(name);
        self.noted(name, expected, value.as_deref(), Some(default.to_string()));
        match value {
            None => Ok(default),
            Some(value) => value.parse().map_err(|_| ConfigError::Invalid { name, expected, value }),
        }
    }

    /// The same for what has no default.
    pub(super) fn optional<T: std::str::FromStr>(&self, name: &'static str, expected: &'static str) -> Result<Option<T>, ConfigError> {
        let value = self.ask(name);
        self.noted(name, expected, value.as_deref(), None);
        value.map(|value| value.parse().map_err(|_| ConfigError::Invalid { name, expected, value })).transpose()
    }

    pub(super) fn at_least<T: std::str::FromStr + ToString + PartialOrd + Copy>(
        &self,
        name: &'static str,
        expected: &'static str,
        least: T,
        default: T,
    ) -> Result<T, ConfigError> {
        let value = self.parsed(name, expected, default)?;
        if value < least {
            return Err(ConfigError::Invalid { name, expected, value: self.ask(name).unwrap_or_default() });
        }
        Ok(value)
    }

    pub(super) fn millis(&self, name: &'static str, default: u64) -> Result<Duration, ConfigError> {
        self.at_least(name, "a positive number of milliseconds", 1, default).map(Duration::from_millis)
    }

    pub(super) fn secret(&self, name: &'static str) -> Result<Option<Secret>, ConfigError> {
        let file_name = format!("{name}_FILE");
        let (secret, source) = match (self.ask(name), self.ask(&file_name)) {
            (Some(value), _) => (Some(Secret::new(value)), Source::Environment),
            (None, None) => (None, Source::Default),
            (None, Some(path)) => match std::fs::read_to_string(&path) {
                Ok(value) => (Some(Secret::new(value.trim())), Source::File(path)),
                Err(source) => return Err(ConfigError::File { name: file_name, path, source }),
            },
        };
        self.note(Setting { name, value: secret.as_ref().map(|secret| format!("{secret:?}")), takes: "a secret", secret: true, source });
        Ok(secret)
    }

    /// The same with a default, which is no secret.
    pub(super) fn secret_or(&self, name: &'static str, default: &str) -> Result<Secret, ConfigError> {
        let secret = self.secret(name)?;
        if secret.is_none() {
            self.note(Setting { name, value: Some(default.to_owned()), takes: "a secret", secret: true, source: Source::Default });
        }
        Ok(secret.unwrap_or_else(|| Secret::new(default)))
    }

    pub(super) fn key(&self, name: &'static str) -> Result<Option<Secret>, ConfigError> {
        match self.secret(name)? {
            Some(key) if key.expose().len() < 32 => {
                Err(ConfigError::Invalid { name, expected: "at least 32 characters", value: "<redacted>".into() })
            }
            other => Ok(other),
        }
    }
}

/// Members a tenant may have, by plan.
pub(super) fn member_limits(lookup: &Lookup<'_>) -> Result<[u32; 4], ConfigError> {
    const NAME: &str = "CHANCERY_MEMBER_LIMITS";
    const EXPECTED: &str = "plan=number pairs";
    const PLANS: [&str; 4] = ["free", "starter", "professional", "enterprise"];
    let mut limits = [10, 100, 1000, 100_000];
    let default: Vec<String> = PLANS.iter().zip(limits).map(|(plan, limit)| format!("{plan}={limit}")).collect();
    let text = lookup.ask(NAME);
    lookup.noted(NAME, EXPECTED, text.as_deref(), Some(default.join(",")));
    for part in text.iter().flat_map(|text| text.split(',')) {
        let slot = part.split_once('=').and_then(|(plan, limit)| {
            let index = PLANS.iter().position(|name| *name == plan.trim())?;
            Some((index, limit.trim().parse().ok()?))
        });
        match slot {
            Some((index, limit)) => limits[index] = limit,
            None => return Err(ConfigError::Invalid { name: NAME, expected: EXPECTED, value: text.clone().unwrap_or_default() }),
        }
    }
    Ok(limits)
}

#[cfg(test)]
mod tests {
    use super::{super::Config, *};

    #[test]
    fn a_setting_says_where_it_is_from_and_a_secret_is_never_shown() {
        let file = std::env::temp_dir().join(format!("chancery-secret-{}", std::process::id()));
        std::fs::write(&file, "postgres://u:hunter2@h/d").unwrap();
        let environment = |name: &str| match name {
            "CHANCERY_LEASE_MS" => Some("700".to_owned()),
            "DATABASE_URL_FILE" => Some(file.display().to_string()),
            "CHANCERY_LINK_KEY" => Some("a key of thirty-two characters!!".to_owned()),
            _ => None,
        };
        let settings = Config::settings(&environment).unwrap();
        std::fs::remove_file(&file).unwrap();
        let of = |name: &str| settings.iter().find(|setting| setting.name == name).map(|setting| (setting.value.as_deref(), setting.source.clone()));
        assert_eq!(of("CHANCERY_LEASE_MS"), Some((Some("700"), Source::Environment)));
        assert_eq!(of("CHANCERY_DRAIN_MS"), Some((Some("10000"), Source::Default)));
        assert_eq!(of("CHANCERY_ADMIN_LISTEN"), Some((None, Source::Default)));
        assert_eq!(of("DATABASE_URL"), Some((Some("<redacted>"), Source::File(file.display().to_string()))));
        assert_eq!(of("CHANCERY_LINK_KEY"), Some((Some("<redacted>"), Source::Environment)));
        assert!(!format!("{settings:?}").contains("hunter2") && !format!("{settings:?}").contains("thirty-two"));
    }
}
