//! The manifest: every durable consumer of EVENTS, declared in one reviewed file.
//!
//! `consumers.toml` has ours and is built in; a file named by `CHANCERY_MANIFEST` adds those of other teams. From an entry follow the durable,
//! the user at NATS with exactly its rights, and, where the consumer keeps something, a role and a schema in PostgreSQL. Whatever would lose
//! messages is refused when the file is read, with the reason. `docs/manifest.md` tells teams what each line means.

mod check;
mod read;

use std::{fs, path::Path, sync::LazyLock, time::Duration};

use anyhow::{Context as _, bail};
use runtime::{
    Config,
    consume::{Durable, Order, Start},
};
use subjects::stream;

use crate::role::Consumer;

/// The largest file that is read, in bytes.
const FILE_LIMIT: u64 = 1 << 20;
/// What is built in.
const BUILT_IN: &str = include_str!("../../consumers.toml");
/// What `up` adds where nobody names a file.
const EXAMPLES: &str = include_str!("../../examples/consumers.toml");

/// A consumer as it is declared.
#[derive(Debug, Clone, PartialEq)]
pub struct Entry {
    /// Its durable, its user at NATS, and what dead letters and metrics call it.
    pub name: &'static str,
    /// Who answers for it.
    pub owner: String,
    /// What it does, in a sentence.
    pub about: String,
    /// The subjects it wants.
    pub filters: Vec<&'static str>,
    /// Whether order matters.
    pub order: Order,
    /// Where it begins when it is new.
    pub start: Start,
    /// How long the server waits for an answer before it delivers again.
    pub ack_wait: Duration,
    /// How often an event is tried before it becomes a dead letter.
    pub max_deliver: u32,
    /// Events that may be unanswered at once.
    pub max_ack_pending: u32,
    /// Delays before the second, third … try.
    pub backoff: Vec<Duration>,
    /// The schema in PostgreSQL that is its own; none for one that keeps nothing there, and for ours.
    pub schema: Option<String>,
    /// What it does outside, which a replay would repeat.
    pub outside: Vec<String>,
}

impl Entry {
    /// Whether the program that consumes is one of this repository.
    pub fn is_ours(&self) -> bool {
        Consumer::ALL.into_iter().any(|consumer| consumer.name() == self.name)
    }

    /// The role in PostgreSQL that its program logs in as; none for one that keeps nothing there.
    pub fn database_role(&self) -> Option<String> {
        let has_one = self.is_ours() || self.schema.is_some();
        has_one.then(|| format!("chancery_{}", self.name.replace('-', "_")))
    }

    /// Its durable in JetStream.
    pub fn durable(&'static self) -> Durable {
        Durable {
            name: self.name,
            stream: stream::EVENTS,
            filters: &self.filters,
            order: self.order,
            start: self.start,
            ack_wait: self.ack_wait,
            max_deliver: self.max_deliver,
            max_ack_pending: self.max_ack_pending,
            // How much a program takes at once is its own matter.
            batch: 1,
            backoff: &self.backoff,
        }
    }
}

/// All consumers that are declared, ours first.
#[derive(Debug, Clone, PartialEq)]
pub struct Manifest {
    entries: Vec<Entry>,
}

impl Manifest {
    /// What is built in.
    pub fn built_in() -> &'static Self {
        static READ: LazyLock<Manifest> = LazyLock::new(|| Manifest::known(BUILT_IN, Manifest { entries: Vec::new() }));
        &READ
    }

    /// What is built in, and the examples: for development and tests.
    pub fn with_examples() -> &'static Self {
        static READ: LazyLock<Manifest> = LazyLock::new(|| Manifest::known(EXAMPLES, Manifest::built_in().clone()));
        &READ
    }

    /// The text of the examples, as a file for `CHANCERY_MANIFEST`.
    pub(crate) const fn examples() -> &'static str {
        EXAMPLES
    }

    /// Reads a text that is part of the program. Tests read it, too: it is as good as the code around it.
    fn known(text: &str, before: Self) -> Self {
        Self::read(text, before).unwrap_or_else(|error| panic!("a manifest that is built in: {error:#}"))
    }

    /// What is built in, and what the file that the configuration names adds. Read once and kept for as long as the process lives.
    ///
    /// # Errors
    /// The file cannot be read, or says something that is refused: everything that is wrong with it, a line each.
    pub fn of(config: &Config) -> anyhow::Result<&'static Self> {
        config.manifest.as_deref().map_or_else(|| Ok(Self::built_in()), Self::load)
    }

    /// What is built in, and what a file adds.
    ///
    /// # Errors
    /// See [`Manifest::of`].
    pub fn load(path: &Path) -> anyhow::Result<&'static Self> {
        let size = fs::metadata(path).with_context(|| format!("reading {}", path.display()))?.len();
        if size > FILE_LIMIT {
            bail!("{} has {size} bytes, and {FILE_LIMIT} are read at most", path.display());
        }
        let text = fs::read_to_string(path).with_context(|| format!("reading {}", path.display()))?;
        let manifest = Self::read(&text, Self::built_in().clone()).with_context(|| path.display().to_string())?;
        // Names, filters and delays are borrowed from it wherever a durable is.
        Ok(Box::leak(Box::new(manifest)))
    }

    /// Looks at a text as at the file that [`Manifest::load`] reads.
    ///
    /// # Errors
    /// Everything that is wrong with it, a line each.
    pub(crate) fn check(text: &str) -> anyhow::Result<()> {
        Self::read(text, Self::built_in().clone()).map(|_| ())
    }

    /// Adds what a text declares to what there is.
    fn read(text: &str, before: Self) -> anyhow::Result<Self> {
        let (read, mut wrong) = read::entries(text)?;
        let mut entries = before.entries;
        for entry in read {
            wrong.extend(check::entry(&entry, &entries).into_iter().map(|what| format!("{}: {what}", entry.name)));
            entries.push(entry);
        }
        if !wrong.is_empty() {
            bail!("{}", wrong.join("\n"));
        }
        Ok(Self { entries })
    }

    /// All of them.
    pub fn entries(&self) -> &[Entry] {
        &self.entries
    }

    /// Those of other teams.
    pub fn of_teams(&self) -> impl Iterator<Item = &Entry> {
        self.entries.iter().filter(|entry| !entry.is_ours())
    }

    /// The one of this name.
    pub fn entry(&self, name: &str) -> Option<&Entry> {
        self.entries.iter().find(|entry| entry.name == name)
    }

    /// Every durable's name.
    pub fn names(&self) -> impl Iterator<Item = &'static str> {
        self.entries.iter().map(|entry| entry.name)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// An entry that nothing is wrong with, with lines changed.
    fn text(change: &[(&str, &str)]) -> String {
        let mut lines = vec![
            ("name", "\"billing\""),
            ("owner", "\"Billing <billing@example.org>\""),
            ("about", "\"Counts seats.\""),
            ("filters", "[\"evt.*.user.created\"]"),
            ("order", "\"aggregate\""),
            ("start", "\"all\""),
            ("ack_wait_s", "30"),
            ("max_deliver", "8"),
            ("max_ack_pending", "256"),
            ("backoff_s", "[1, 5, 30]"),
            ("schema", "\"billing\""),
        ];
        for (key, value) in change {
            match lines.iter_mut().find(|(known, _)| known == key) {
                Some(line) => line.1 = value,
                None => lines.push((key, value)),
            }
        }
        let lines: Vec<String> = lines.iter().filter(|(_, value)| !value.is_empty()).map(|(key, value)| format!("{key} = {value}")).collect();
        format!("[[consumer]]\n{}\n", lines.join("\n"))
    }

    fn refused(change: &[(&str, &str)]) -> String {
        format!("{:#}", Manifest::read(&text(change), Manifest::built_in().clone()).unwrap_err())
    }

    #[test]
    fn ours_are_declared_as_their_programs_have_them() {
        let config = Config::from_lookup(&|_| None).unwrap();
        let manifest = Manifest::built_in();
        assert_eq!(manifest.entries().iter().filter(|entry| entry.is_ours()).count(), Consumer::ALL.len());
        for consumer in Consumer::ALL {
            let (program, entry) = (consumer.durable(&config), manifest.entry(consumer.name()).unwrap());
            let declared = Durable { batch: program.batch, ..entry.durable() };
            assert_eq!(format!("{declared:?}"), format!("{program:?}"), "consumers.toml and {} differ", consumer.name());
        }
    }

    #[test]
    fn a_file_adds_to_what_is_built_in() {
        let manifest = Manifest::read(&text(&[]), Manifest::built_in().clone()).unwrap();
        let entry = manifest.entry("billing").unwrap();
        assert_eq!((entry.order, entry.ack_wait, entry.schema.as_deref()), (Order::Aggregate, Duration::from_secs(30), Some("billing")));
        assert_eq!(entry.database_role().as_deref(), Some("chancery_billing"));
        assert_eq!(manifest.entries().len(), Manifest::built_in().entries().len() + 1);
    }

    #[test]
    fn a_filter_that_matches_no_event_is_refused_and_the_nearest_is_named() {
        let why = refused(&[("filters", "[\"evt.*.user.craeted\"]")]);
        assert!(why.starts_with("billing: \"evt.*.user.craeted\" matches no event of the registry") && why.contains("user.created"), "{why}");
        assert!(refused(&[("filters", "[\"evt.*.users.>\"]")]).contains("matches no event"));
        assert!(refused(&[("filters", "[\"evt.acme.user.>\"]")]).contains("a tenant is named by its id"));
        assert!(refused(&[("filters", "[\"cmd.>\"]")]).contains("evt.<tenant>.<topic>.<event>"));
        assert!(refused(&[("filters", "[]")]).contains("no filter"));
        assert!(refused(&[("filters", "[\"evt.*.user.>\", \"evt.*.user.created\"]")]).contains("overlap"));
        assert!(refused(&[("filters", "[\"evt.*.user.created\", \"evt.*.user.deleted\"]")]).contains("takes one filter"));
    }

    #[test]
    fn a_filter_for_one_tenant_or_for_everything_is_good() {
        for filter in ["evt.>", "evt.*.*.>", "evt.platform.user.created", "evt.tenant_01890a5d-ac96-774b-bcce-b302099a8057.>", "evt.*.*.created"] {
            let text = text(&[("filters", &format!("[{filter:?}]"))]);
            assert!(Manifest::read(&text, Manifest::built_in().clone()).is_ok(), "{filter}");
        }
    }

    #[test]
    fn a_setting_that_would_lose_messages_is_refused_with_the_reason() {
        for (key, value, reason) in [
            ("ack_policy", "\"none\"", "acknowledgements are always explicit"),
            ("memory_storage", "true", "its place would be lost"),
            ("inactive_threshold_s", "3600", "would be deleted with its place"),
            ("num_replicas", "1", "as many replicas as the stream"),
            ("deliver_subject", "\"team.in\"", "pushed at a slow client"),
            ("deliver_policy", "\"last\"", "passes over events"),
            ("start", "\"last\"", "passes over events"),
            ("start", "\"2026-13-01T00:00:00Z\"", "passes over events"),
            ("headers_only", "true", "bodies"),
            ("rate_limit_bps", "1", "max_ack_pending"),
            ("max_deliver", "0", "without having been tried"),
            ("max_deliver", "-1", "\"unlimited\""),
            ("ack_wait_s", "0.2", "delivered again while it is still worked on"),
            ("max_ack_pending", "0", "1 to 65536"),
            ("backoff_s", "[]", "tried again at once"),
            ("schema", "", "keeps its position"),
        ] {
            let why = refused(&[(key, value)]);
            assert!(why.contains(reason), "{key} = {value}: {why}");
        }
    }

    #[test]
    fn what_nobody_knows_or_what_is_missing_is_refused() {
        let why = refused(&[("filtres", "[\"evt.>\"]")]);
        assert!(why.contains("filtres") && why.contains("no setting of a consumer"), "{why}");
        assert!(refused(&[("owner", "")]).contains("owner is missing"));
        assert!(refused(&[("owner", "\" \"")]).contains("owner is empty"));
        assert!(refused(&[("ack_wait_s", "\"long\"")]).contains("ack_wait_s"));
        assert!(Manifest::read("consumer = 1", Manifest::built_in().clone()).is_err());
        assert!(format!("{:#}", Manifest::read("[[consumers]]", Manifest::built_in().clone()).unwrap_err()).contains("[[consumer]]"));
    }

    #[test]
    fn a_name_or_a_schema_is_taken_once() {
        assert!(refused(&[("name", "\"audit\"")]).contains("declared twice"));
        for name in ["worker", "gateway", "operator", "provisioner", "system"] {
            assert!(refused(&[("name", &format!("{name:?}"))]).contains("is a user of the stack"), "{name}");
        }
        for name in ["", "Billing", "billing.eu", "billing_eu", "-b", "a-very-long-name-that-nobody-would-want-to-read"] {
            assert!(refused(&[("name", &format!("{name:?}"))]).contains("is no name"), "{name}");
        }
        for schema in ["public", "pg_toast", "information_schema", "Billing", "billing-eu"] {
            assert!(refused(&[("schema", &format!("{schema:?}"))]).contains("schema"), "{schema}");
        }
        let twice = format!("{}{}", text(&[]), text(&[("name", "\"other\"")]));
        let why = format!("{:#}", Manifest::read(&twice, Manifest::built_in().clone()).unwrap_err());
        assert!(why.contains("schema billing is billing's"), "{why}");
    }

    #[test]
    fn everything_that_is_wrong_is_told_at_once() {
        let why = refused(&[("filters", "[\"evt.*.users.>\"]"), ("ack_policy", "\"all\""), ("max_ack_pending", "0")]);
        assert_eq!(why.lines().count(), 3, "{why}");
    }
}
