//! A round: one contender, first as fast as it can, then at half of that.

use std::{collections::BTreeMap, time::Duration};

use serde::Serialize;

use super::{
    Options,
    contender::Contender,
    histogram::Delays,
    load::Pace,
    stand::Stand,
    usage::{self, Clock},
};

/// Commands before a round that do not count.
const WARM_UP: usize = 1_000;
/// How long one phase may take; then it is said what is missing.
const PHASE_LIMIT: Duration = Duration::from_secs(180);

/// What a round has shown.
#[derive(Debug, Clone, Serialize)]
pub(super) struct Round {
    /// Commands a second, from the first request to the last audit row.
    pub(super) durable_per_s: f64,
    /// Latency of the closed loop.
    pub(super) max_p50_ms: f64,
    pub(super) max_p99_ms: f64,
    /// Commands a second of the open loop: planned.
    pub(super) half_rate: f64,
    /// Latency of the open loop from the planned start.
    pub(super) half_p50_ms: f64,
    pub(super) half_p99_ms: f64,
    /// CPU seconds for 1000 commands by process, during the closed loop.
    pub(super) cpu_s_per_1000: BTreeMap<String, f64>,
    /// Resident memory by process after it.
    pub(super) memory_mb: BTreeMap<String, f64>,
    /// From an event's time to its handler's end, 99 %, by consumer, at half load; where the consumer counts it.
    pub(super) handler_p99_ms: BTreeMap<String, f64>,
    /// Accepted commands without an audit row.
    pub(super) rows_missing: usize,
    /// What was not accepted.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) trouble: Option<String>,
}

impl Round {
    /// The sum over all processes but the load.
    pub(super) fn cpu(&self) -> f64 {
        counted(&self.cpu_s_per_1000)
    }

    /// The sum over all processes but the load.
    pub(super) fn memory(&self) -> f64 {
        counted(&self.memory_mb)
    }
}

fn counted(by_process: &BTreeMap<String, f64>) -> f64 {
    by_process.iter().filter(|(name, _)| *name != super::LOAD).map(|(_, value)| value).sum()
}

/// Measures one contender once.
///
/// # Errors
/// A process has ended, or nothing can be sent.
pub(super) async fn round(contender: &mut Contender, stand: &mut Stand, options: &Options) -> anyhow::Result<Round> {
    contender.drive(WARM_UP, Pace::Closed, options.concurrency, PHASE_LIMIT).await?;
    stand.check()?;
    let watched = stand.watched(contender.prefix)?;
    let before = Clock::read(&watched);
    let (closed, rows) = contender.drive(options.commands, Pace::Closed, options.concurrency, PHASE_LIMIT).await?;
    let used = Clock::read(&watched).since(&before);
    let memory_mb = usage::memory(&watched);
    stand.check()?;

    let thousands = closed.accepted.len().max(1) as f64 / 1_000.0;
    let durable = closed.accepted.len() as f64 / rows.complete.saturating_duration_since(closed.begin).as_secs_f64();
    let half_rate = (durable / 2.0).max(1.0);
    let delays = Delays::read(stand, contender.prefix);
    let (half, half_rows) = contender.drive((options.commands / 2).max(1), Pace::Open(half_rate), options.concurrency * 4, PHASE_LIMIT).await?;
    let handler_p99_ms = Delays::read(stand, contender.prefix).p99_since(&delays);
    stand.check()?;
    let trouble: Vec<String> = [("at the maximum", closed.trouble()), ("at half of it", half.trouble())]
        .into_iter()
        .filter_map(|(when, trouble)| trouble.map(|trouble| format!("{when}: {trouble}")))
        .collect();
    Ok(Round {
        durable_per_s: durable,
        max_p50_ms: closed.ms(0.5),
        max_p99_ms: closed.ms(0.99),
        half_rate,
        half_p50_ms: half.ms(0.5),
        half_p99_ms: half.ms(0.99),
        cpu_s_per_1000: used.into_iter().map(|(name, seconds)| (name, seconds / thousands)).collect(),
        memory_mb,
        handler_p99_ms,
        rows_missing: rows.missing + half_rows.missing,
        trouble: (!trouble.is_empty()).then(|| trouble.join("; ")),
    })
}
