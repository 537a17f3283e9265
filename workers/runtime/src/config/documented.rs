//! Doc lines that the program can read: the fields' own.

/// Defines a struct and keeps the doc lines of its fields, in their order, as `DOCS`.
macro_rules! documented {
    ($(#[$meta:meta])* pub struct $name:ident { $($(#[doc = $doc:literal])* pub $field:ident: $type:ty,)* }) => {
        $(#[$meta])*
        pub struct $name {
            $($(#[doc = $doc])* pub $field: $type,)*
        }

        /// The doc lines of every field.
        const DOCS: &[&str] = &[$(concat!($($doc),*)),*];
    };
}
pub(super) use documented;

/// A variable, as the doc line of its field describes it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Variable {
    /// Its name.
    pub name: &'static str,
    /// Whether `<name>_FILE` may name a file that holds it: then it is a secret.
    pub has_file: bool,
    /// What it means, its default last.
    pub about: &'static str,
}

impl Variable {
    /// The default in a form that the variable takes, as documented: `1 GiB` is `1073741824`. None where there is none, or in words only.
    pub fn documented_default(&self) -> Option<String> {
        let (_, text) = self.about.split_once("Default ")?;
        if let Some(literal) = text.strip_prefix('`') {
            return literal.split('`').next().map(str::to_owned);
        }
        let mut words = text.split([' ', ':']).map(|word| word.trim_end_matches('.'));
        let number: i64 = words.next()?.parse().ok()?;
        let unit = match words.next() {
            Some("KiB") => 1 << 10,
            Some("MiB") => 1 << 20,
            Some("GiB") => 1 << 30,
            Some("days") => 86_400,
            _ => 1,
        };
        Some((number * unit).to_string())
    }
}

/// Every variable, in the order of the fields.
pub fn variables() -> Vec<Variable> {
    super::DOCS.iter().filter_map(|doc| variable(doc)).collect()
}

/// Reads `` `NAME` (`NAME_FILE`): about``.
fn variable(doc: &'static str) -> Option<Variable> {
    let (head, about) = doc.split_once(": ")?;
    let mut names = head.split('`').skip(1).step_by(2);
    let name = names.next()?;
    Some(Variable { name, has_file: names.next().is_some_and(|file| file.ends_with("_FILE")), about })
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::{super::Config, *};

    #[test]
    fn every_field_says_which_variable_it_is_and_what_it_means() {
        for doc in super::super::DOCS {
            let known =
                variable(doc).filter(|variable| variable.name.chars().all(|c| c.is_ascii_uppercase() || c == '_') && !variable.about.is_empty());
            assert!(known.is_some(), "the doc line of a field begins with its variable in backticks and a colon: {doc}");
        }
        let names: BTreeSet<&str> = variables().iter().map(|variable| variable.name).collect();
        assert_eq!(names.len(), variables().len(), "a variable stands at two fields");
    }

    #[test]
    fn every_variable_that_is_read_is_documented_and_no_other() {
        let read: BTreeSet<&str> = Config::settings(&|_| None).unwrap().iter().map(|setting| setting.name).collect();
        assert_eq!(variables().iter().map(|variable| variable.name).collect::<BTreeSet<_>>(), read);
    }

    #[test]
    fn what_is_documented_about_secrets_and_defaults_is_so() {
        for (variable, setting) in variables().iter().zip(Config::settings(&|_| None).unwrap()) {
            assert_eq!(variable.name, setting.name, "settings come in the order of the fields");
            assert_eq!(variable.has_file, setting.secret, "{}: a secret, and nothing else, has a `_FILE` variant", variable.name);
            let in_words = variable.about.contains("Default: ");
            match (&setting.value, variable.documented_default()) {
                (Some(value), documented) if !in_words => assert_eq!(documented.as_ref(), Some(value), "{}", variable.name),
                (None, Some(documented)) => panic!("{} has no default, and {documented} is documented", variable.name),
                _ => {}
            }
        }
    }
}
