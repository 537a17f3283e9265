//! What is printed: a table for people, or one object for programs.

use std::{collections::BTreeMap, fmt::Write as _};

use serde::Serialize;
use serde_json::{Value, json};

use super::{LOAD, Options, measure::Round};

/// Everything that was measured.
#[derive(Debug, Clone, Default, Serialize)]
pub(super) struct Report {
    pub(super) product: Vec<Round>,
    pub(super) floor: Vec<Round>,
    /// What the check of all rows at the end has found; empty when everything is right.
    pub(super) findings: Vec<String>,
    /// Accepted commands whose audit row is missing, as counted at the end over everything.
    pub(super) rows_missing: usize,
    pub(super) machine: String,
}

fn median(rounds: &[Round], value: impl Fn(&Round) -> f64) -> Option<f64> {
    middle(rounds.iter().map(value).collect())
}

/// The median.
pub(super) fn middle(mut values: Vec<f64>) -> Option<f64> {
    values.sort_by(f64::total_cmp);
    let half = values.len() / 2;
    if values.len() % 2 == 1 { values.get(half).copied() } else { Some((values.get(half.checked_sub(1)?)? + values.get(half)?) / 2.0) }
}

fn medians(rounds: &[Round], map: impl Fn(&Round) -> &BTreeMap<String, f64>) -> BTreeMap<String, f64> {
    let names: std::collections::BTreeSet<&String> = rounds.iter().flat_map(|round| map(round).keys()).collect();
    let value = |name: &String| middle(rounds.iter().filter_map(|round| map(round).get(name).copied()).collect());
    names.into_iter().filter_map(|name| Some((name.clone(), round(value(name)?, 4)))).collect()
}

fn round(value: f64, digits: i32) -> f64 {
    let scale = 10_f64.powi(digits);
    (value * scale).round() / scale
}

impl Report {
    /// The rate of the product as a part of the floor's, round by round, its median.
    fn ratio(&self) -> Option<f64> {
        middle(self.product.iter().zip(&self.floor).map(|(product, floor)| product.durable_per_s / floor.durable_per_s).collect())
    }

    /// True when everything was accepted and every row is there: only then do the figures mean something.
    pub(super) fn sound(&self) -> bool {
        let trouble = self.product.iter().chain(&self.floor).any(|round| round.trouble.is_some());
        self.rows_missing == 0 && self.findings.is_empty() && !trouble
    }

    /// One object.
    pub(super) fn json(&self, options: &Options) -> Value {
        let rounded = |value: Option<f64>, digits| value.map(|value| round(value, digits));
        let of = |rounds: &[Round], value: fn(&Round) -> f64, digits| rounded(median(rounds, value), digits);
        json!({
            "durable_per_s": of(&self.product, |round| round.durable_per_s, 0),
            "floor_per_s": of(&self.floor, |round| round.durable_per_s, 0),
            "ratio": rounded(self.ratio(), 3),
            "p50_ms": of(&self.product, |round| round.half_p50_ms, 2),
            "p99_ms": of(&self.product, |round| round.half_p99_ms, 2),
            "floor_p50_ms": of(&self.floor, |round| round.half_p50_ms, 2),
            "floor_p99_ms": of(&self.floor, |round| round.half_p99_ms, 2),
            "max_p50_ms": of(&self.product, |round| round.max_p50_ms, 2),
            "max_p99_ms": of(&self.product, |round| round.max_p99_ms, 2),
            "cpu_s_per_1000": of(&self.product, Round::cpu, 4),
            "floor_cpu_s_per_1000": of(&self.floor, Round::cpu, 4),
            "cpu_by_process": medians(&self.product, |round| &round.cpu_s_per_1000),
            "floor_cpu_by_process": medians(&self.floor, |round| &round.cpu_s_per_1000),
            "memory_mb": of(&self.product, Round::memory, 0),
            "memory_mb_by_process": medians(&self.product, |round| &round.memory_mb),
            "handler_p99_ms": medians(&self.product, |round| &round.handler_p99_ms),
            "rows_missing": self.rows_missing,
            "findings": self.findings,
            "options": {
                "sync": options.sync.name(), "concurrency": options.concurrency, "consumers": options.consumers.name(), "workers": options.workers,
                "aggregates": options.aggregates, "tenants": options.tenants, "commands": options.commands, "rounds": options.rounds,
            },
            "machine": self.machine,
            "rounds": { "product": self.product, "floor": self.floor },
        })
    }

    /// A table.
    pub(super) fn table(&self, options: &Options) -> String {
        let mut out = String::new();
        let _ = writeln!(
            out,
            "\n sync {} · concurrency {} · consumers {} · {} worker(s) · {} aggregates, {} tenants · {} commands × {} rounds · {}\n",
            options.sync.name(),
            options.concurrency,
            options.consumers.name(),
            options.workers,
            options.aggregates,
            options.tenants,
            options.commands,
            options.rounds,
            self.machine,
        );
        let _ = writeln!(
            out,
            " {:<12}{:>10}{:>10}{:>20}{:>22}{:>16}{:>11}",
            "", "durable/s", "vs floor", "p50/p99 ms at max", "p50/p99 ms at half", "CPU-s per 1000", "memory MB"
        );
        for (name, rounds) in [("product", &self.product), ("floor", &self.floor)] {
            let Some(rate) = median(rounds, |round| round.durable_per_s) else { continue };
            let value = |value: fn(&Round) -> f64| median(rounds, value).unwrap_or_default();
            let ratio = if name == "floor" { Some(1.0) } else { self.ratio() };
            let _ = writeln!(
                out,
                " {name:<12}{rate:>10.0}{:>10}{:>20}{:>22}{:>16.3}{:>11.0}",
                ratio.map_or_else(|| "–".to_owned(), |ratio| format!("{ratio:.2}")),
                format!("{:.1}/{:.1}", value(|round| round.max_p50_ms), value(|round| round.max_p99_ms)),
                format!("{:.1}/{:.1}", value(|round| round.half_p50_ms), value(|round| round.half_p99_ms)),
                value(Round::cpu),
                value(Round::memory),
            );
        }
        for (name, rounds) in [("product", &self.product), ("floor", &self.floor)] {
            let cpu = medians(rounds, |round| &round.cpu_s_per_1000);
            let memory = medians(rounds, |round| &round.memory_mb);
            if cpu.is_empty() {
                continue;
            }
            let _ = writeln!(out, "\n {name}: CPU-s per 1000 (MB)");
            for (process, seconds) in &cpu {
                let note = if process == LOAD { "   not counted" } else { "" };
                let _ = writeln!(out, "   {process:<16}{seconds:>9.4}{:>9.0}{note}", memory.get(process).copied().unwrap_or_default());
            }
        }
        let handlers = medians(&self.product, |round| &round.handler_p99_ms);
        if !handlers.is_empty() {
            let list: Vec<String> = handlers.iter().map(|(name, ms)| format!("{name} ≤ {ms:.0} ms")).collect();
            let _ = writeln!(out, "\n event → handler, 99 % at half load: {}", list.join(", "));
        }
        for (name, rounds) in [("product", &self.product), ("floor", &self.floor)] {
            for (number, trouble) in rounds.iter().enumerate().filter_map(|(number, round)| Some((number + 1, round.trouble.as_ref()?))) {
                let _ = writeln!(out, "\n {name}, round {number}: {trouble}");
            }
        }
        let _ = writeln!(out, "\n rows missing: {}{}", self.rows_missing, if self.findings.is_empty() { "" } else { "; found:" });
        for finding in &self.findings {
            let _ = writeln!(out, "   {finding}");
        }
        out
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_median_of_an_even_number_lies_between_the_middle_ones() {
        assert_eq!(middle(vec![3.0, 1.0, 2.0]), Some(2.0));
        assert_eq!(middle(vec![4.0, 1.0, 2.0, 3.0]), Some(2.5));
        assert_eq!(middle(vec![]), None);
    }
}
