use super::*;

fn read(pairs: &[(&str, &str)]) -> Result<Config, ConfigError> {
    Config::from_lookup(&|name| pairs.iter().find(|(key, _)| *key == name).map(|(_, value)| (*value).to_owned()))
}

#[test]
fn an_empty_environment_gives_the_documented_defaults() -> Result<(), ConfigError> {
    let config = read(&[])?;
    assert_eq!((config.partitions, config.batch_commands, config.lease), (64, 256, Duration::from_secs(5)));
    Ok(())
}

#[test]
fn a_value_that_is_no_number_names_its_variable() {
    let error = read(&[("CHANCERY_LEASE_MS", "soon")]).map(|_| ()).map_err(|error| error.to_string());
    assert_eq!(error, Err("CHANCERY_LEASE_MS is not a positive number of milliseconds: \"soon\"".into()));
}

#[test]
fn a_short_key_is_refused_without_being_shown() {
    let error = read(&[("CHANCERY_LINK_KEY", "hunter2")]).map(|_| ()).map_err(|error| error.to_string());
    assert_eq!(error, Err("CHANCERY_LINK_KEY is not at least 32 characters: \"<redacted>\"".into()));
}

#[test]
fn secrets_do_not_show_in_debug_output() -> Result<(), ConfigError> {
    let config = read(&[("DATABASE_URL", "postgres://u:hunter2@h/d")])?;
    assert!(!format!("{config:?}").contains("hunter2"));
    Ok(())
}
