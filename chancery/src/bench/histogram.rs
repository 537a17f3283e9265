//! Reads how long events took to their handlers from what the consumers count themselves.

use std::{collections::BTreeMap, time::Duration};

use super::stand::Stand;
use crate::servers::port;

/// The histogram every consumer keeps: seconds from the event's time until it was handled.
const METRIC: &str = "chancery_consumer_latency_seconds";

/// Cumulative counts by upper bound, by consumer, at some moment.
#[derive(Debug, Clone, Default)]
pub(super) struct Delays(BTreeMap<String, Buckets>);

/// Upper bounds in seconds with the number of values up to them, in rising order.
type Buckets = Vec<(f64, f64)>;

impl Delays {
    /// Asks every process whose name begins with `prefix`.
    pub(super) fn read(stand: &Stand, prefix: &str) -> Self {
        let ask = |process: &super::stand::Process| {
            let name = process.name.strip_prefix(prefix)?.trim().to_owned();
            let (_, text) = port::get(process.admin?, "/metrics", Duration::from_secs(2)).ok().filter(|(status, _)| *status == 200)?;
            let buckets = parse(&text);
            (!buckets.is_empty()).then_some((name, buckets))
        };
        Self(stand.processes().iter().filter_map(ask).collect())
    }

    /// The 99 % of what came since, in milliseconds: the upper bound of its bucket.
    pub(super) fn p99_since(&self, earlier: &Self) -> BTreeMap<String, f64> {
        let nothing = Buckets::new();
        let p99 = |(name, now): (&String, &Buckets)| {
            let before = earlier.0.get(name).unwrap_or(&nothing);
            let fresh: Buckets =
                now.iter().map(|(bound, count)| (*bound, count - before.iter().find(|(b, _)| b == bound).map_or(0.0, |(_, c)| *c))).collect();
            let wanted = fresh.last()?.1 * 0.99;
            let bound = fresh.iter().find(|(_, count)| *count >= wanted && *count > 0.0)?.0;
            Some((name.clone(), bound * 1_000.0))
        };
        self.0.iter().filter_map(p99).collect()
    }
}

/// `name_bucket{…le="0.005"} 12` lines; several series of labels are summed.
fn parse(text: &str) -> Buckets {
    let mut counts: Vec<(f64, f64)> = Vec::new();
    for line in text.lines() {
        let Some(rest) = line.strip_prefix(METRIC).and_then(|rest| rest.strip_prefix("_bucket{")) else { continue };
        let Some((labels, count)) = rest.rsplit_once("} ") else { continue };
        let bound = labels.split(',').find_map(|label| label.trim().strip_prefix("le=\"")?.strip_suffix('"')?.parse::<f64>().ok());
        let (Some(bound), Ok(count)) = (bound, count.trim().parse::<f64>()) else { continue };
        match counts.iter_mut().find(|(known, _)| *known == bound) {
            Some((_, sum)) => *sum += count,
            None => counts.push((bound, count)),
        }
    }
    counts.sort_by(|(left, _), (right, _)| left.total_cmp(right));
    counts
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_p99_is_the_bound_that_holds_ninety_nine_percent_of_what_is_new() {
        let at = |low: u32, high: u32| {
            let text =
                format!("{METRIC}_bucket{{le=\"0.005\"}} {low}\n{METRIC}_bucket{{le=\"0.01\"}} {high}\n{METRIC}_bucket{{le=\"+Inf\"}} {high}\n");
            Delays([("audit".to_owned(), parse(&text))].into())
        };
        assert_eq!(at(100, 100).p99_since(&at(0, 0))["audit"], 5.0);
        assert_eq!(at(150, 200).p99_since(&at(100, 100))["audit"], 10.0);
        assert!(at(1, 1).p99_since(&at(1, 1)).is_empty());
    }
}
