//! What a worker tells Prometheus. Nothing here is labelled by tenant, command or partition.

use std::sync::LazyLock;

use subjects::stream as names;
use time::OffsetDateTime;

use super::process::Trouble;
use crate::metrics::{self, Age, BATCH, Counter, Gauge, Histogram, SECONDS, STAGES, STAGES_HELP};

/// Why commands are dead-lettered.
const REASONS: [&str; 5] = ["undecodable", "mismatch", "unknown", "poison", "condemned"];

/// The figures of a worker.
pub(crate) struct Metrics {
    /// From when the server stored a command until it was taken into a batch.
    pub(crate) queue: Histogram,
    /// What a batch needs, from the database.
    pub(crate) load: Histogram,
    /// In memory.
    pub(crate) decide: Histogram,
    /// The transaction.
    pub(crate) commit: Histogram,
    /// Handing the outcomes to the connection.
    pub(crate) tell: Histogram,
    /// From the first event of a publish to its PubAck.
    pub(crate) publish: Histogram,
    pub(crate) decided: Counter,
    pub(crate) batches: Histogram,
    /// Events of one publish.
    pub(crate) published: Histogram,
    repeated: [Counter; 4],
    /// Commands that were tried with care after a crash.
    pub(crate) careful: Counter,
    /// Publishes whose end was not known.
    pub(crate) in_doubt: Counter,
    dead: [Counter; REASONS.len()],
    pub(crate) partitions: Gauge,
    /// Partitions that nobody owned, taken.
    pub(crate) taken: Counter,
    /// Partitions whose owner had ended without handing over, taken.
    pub(crate) taken_over: Counter,
    /// Partitions that are another's without having been handed over.
    pub(crate) lost: Counter,
    /// Partitions handed over.
    pub(crate) shed: Counter,
}

pub(crate) static METRICS: LazyLock<Metrics> = LazyLock::new(Metrics::new);

impl Metrics {
    fn new() -> Self {
        let stages = ["queue", "load", "decide", "commit", "tell", "publish"];
        let [queue, load, decide, commit, tell, publish] = metrics::histograms(STAGES, STAGES_HELP, "stage", stages, &SECONDS);
        let changes = ["taken", "taken_over", "lost", "shed"];
        let [taken, taken_over, lost, shed] =
            metrics::counters("chancery_lease_changes_total", "Partitions that came to this worker or left it.", "change", changes);
        Self {
            queue,
            load,
            decide,
            commit,
            tell,
            publish,
            decided: metrics::counter("chancery_commands_decided_total", "Commands with an outcome."),
            batches: metrics::histogram("chancery_batch_commands", "Commands decided in one transaction.", &BATCH),
            published: metrics::histogram("chancery_outbox_batch_events", "Events published at once.", &BATCH),
            repeated: metrics::counters(
                "chancery_batches_repeated_total",
                "Batches that were rolled back and decided again.",
                "reason",
                ["ownership", "conflict", "data", "transient"],
            ),
            careful: metrics::counter("chancery_commands_tried_with_care_total", "Commands tried with care, because a worker had crashed."),
            in_doubt: metrics::counter("chancery_outbox_in_doubt_total", "Publishes of events with an unknown end, which were settled."),
            dead: metrics::counters("chancery_commands_dead_lettered_total", "Commands given up on.", "reason", REASONS),
            partitions: metrics::gauge("chancery_partitions_owned", "Partitions owned."),
            taken,
            taken_over,
            lost,
            shed,
        }
    }

    /// A command is taken that the server stored then; by whose clock it waited is the difference of two.
    pub(crate) fn waited(&self, since: OffsetDateTime) {
        self.queue.observe((OffsetDateTime::now_utc() - since).as_seconds_f64().max(0.0));
    }

    /// A batch has to be run again.
    pub(crate) fn repeated(&self, trouble: &Trouble) {
        let [ownership, conflict, data, transient] = &self.repeated;
        match trouble {
            Trouble::Ownership => ownership,
            Trouble::Conflict => conflict,
            Trouble::Data(_) => data,
            Trouble::Transient(_) => transient,
        }
        .inc();
    }

    /// A command is given up on.
    pub(crate) fn dead(&self, reason: &str) {
        if let Some(index) = REASONS.iter().position(|known| *known == reason) {
            self.dead[index].inc();
        }
    }
}

/// What waits in the whole cluster, as the owner of the first partition sees it; at everybody else nothing.
pub(crate) struct Backlog {
    pub(crate) undecided: Gauge,
    pub(crate) undecided_age: Age,
    /// Partitions whose oldest undecided command is past the deadline.
    pub(crate) overdue: Gauge,
    pub(crate) unpublished: Gauge,
    pub(crate) unpublished_age: Age,
    pub(crate) unowned: Gauge,
    /// Of COMMANDS and EVENTS.
    pub(crate) bytes: [Gauge; 2],
    /// As many bytes as they may have; 0 for no limit of their own.
    pub(crate) max_bytes: [Gauge; 2],
    /// When it was looked at, in seconds since 1970; 0 when somebody else looks.
    pub(crate) looked: Gauge,
}

pub(crate) static BACKLOG: LazyLock<Backlog> = LazyLock::new(|| {
    let streams = [names::COMMANDS, names::EVENTS];
    Backlog {
        undecided: metrics::gauge("chancery_undecided_commands", "Commands that are accepted and not decided."),
        undecided_age: metrics::age("chancery_undecided_oldest_age_seconds", "For how long the oldest undecided command has been waiting."),
        overdue: metrics::gauge("chancery_undecided_overdue_partitions", "Partitions with an undecided command past CHANCERY_UNDECIDED_AFTER_MS."),
        unpublished: metrics::gauge("chancery_outbox_events", "Events that are committed and not known to be in EVENTS."),
        unpublished_age: metrics::age("chancery_outbox_oldest_age_seconds", "For how long the oldest of them has been waiting."),
        unowned: metrics::gauge("chancery_partitions_without_owner", "Partitions that no living worker owns."),
        bytes: metrics::gauges("chancery_stream_bytes", "Bytes a stream has.", "stream", streams),
        max_bytes: metrics::gauges("chancery_stream_max_bytes", "Bytes a stream may have; 0 for no limit of its own.", "stream", streams),
        looked: metrics::gauge("chancery_backlog_looked_timestamp_seconds", "When what waits was last looked at; 0 where somebody else looks."),
    }
});
