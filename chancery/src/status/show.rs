//! What `chancery status` prints for people.

use std::fmt::Write as _;

use crate::overview::{ConsumerState, Overview, Waiting};

/// The whole table. With an earlier look it has rates.
pub(super) fn table(now: &Overview, before: Option<&Overview>) -> String {
    let mut text = String::new();
    let last = |overview: &Overview, name: &str| overview.streams.iter().find(|stream| stream.name == name).map_or(0, |stream| stream.last);
    let rate = |of: &dyn Fn(&Overview) -> u64| before.map(|before| per_second(of(before), of(now), (now.at - before.at).as_seconds_f64()));
    let rates = [
        ("accepted", rate(&|overview| last(overview, subjects::stream::COMMANDS))),
        ("events decided", rate(&|overview| overview.partitions.events)),
        ("published", rate(&|overview| last(overview, subjects::stream::EVENTS))),
    ];
    let rates: Vec<String> = rates.iter().filter_map(|(what, rate)| rate.map(|rate| format!("{what} {rate:.0}/s"))).collect();
    let _ = writeln!(text, "{}  {}", now.at.replace_nanosecond(0).unwrap_or(now.at), rates.join("   "));

    let without = if now.partitions.without_owner > 0 { format!(", {} WITHOUT AN OWNER", now.partitions.without_owner) } else { String::new() };
    let _ = writeln!(text, "\npartitions  {}{without}", now.partitions.total);
    for owner in &now.partitions.owners {
        let lease = if owner.lease_seconds < 0.0 { "ran out".into() } else { format!("{:.1} s left", owner.lease_seconds) };
        let _ = writeln!(text, "  {:<24} {:>4}   lease {lease}", owner.name, owner.partitions);
    }
    let _ = writeln!(text, "\nundecided   {}", waiting(now.undecided));
    let _ = writeln!(text, "unpublished {}", waiting(now.unpublished));
    let _ = writeln!(text, "dead letters {}, given up by the server {}", now.dead_letters, now.advisories);

    let _ = writeln!(text, "\n{:<18} {:>10} {:>10} {:>10} {:>9} {:>9} {:>6}  ", "stream", "messages", "MiB", "full", "replicas", "last", "leader");
    for stream in &now.streams {
        let full = stream.max_bytes.map_or("-".into(), |_| format!("{:.1} %", stream.fullness() * 100.0));
        let behind = if stream.behind.is_empty() { String::new() } else { format!("behind: {}", stream.behind.join(", ")) };
        let leader = stream.leader.as_deref().unwrap_or("NONE");
        let (name, messages, mib) = (&stream.name, stream.messages, stream.bytes >> 20);
        let line = format!("{name:<18} {messages:>10} {mib:>10} {full:>10} {:>9} {:>9} {leader:>6}  {behind}", stream.replicas, stream.last);
        let _ = writeln!(text, "{}", line.trim_end());
    }

    let _ = write!(text, "\n{}", consumers(now, before));
    text
}

/// How far consumers are. With an earlier look it has rates.
pub(crate) fn consumers(now: &Overview, before: Option<&Overview>) -> String {
    let mut text = String::new();
    let _ = writeln!(
        text,
        "{:<18} {:>9} {:>10} {:>11} {:>8} {:>9} {:>8}  ",
        "consumer", "pending", "unanswered", "redelivered", "oldest", "handled", "dead"
    );
    for consumer in &now.consumers {
        let earlier = before.and_then(|before| before.consumers.iter().find(|earlier| earlier.name == consumer.name));
        let seconds = before.map_or(0.0, |before| (now.at - before.at).as_seconds_f64());
        let _ = writeln!(text, "{}", line(consumer, earlier, seconds).trim_end());
    }
    text
}

fn line(consumer: &ConsumerState, earlier: Option<&ConsumerState>, seconds: f64) -> String {
    let ConsumerState { name, pending, unanswered, redelivered, handled, dead_letters, .. } = consumer;
    let oldest = consumer.oldest_seconds.map_or("-".into(), age);
    let handled = earlier.map_or(handled.to_string(), |earlier| format!("{:.0}/s", per_second(earlier.handled, *handled, seconds)));
    let remark = match consumer {
        ConsumerState { exists: false, is_ordered: false, .. } => "NO DURABLE".into(),
        ConsumerState { exists: false, .. } => "has never run".into(),
        ConsumerState { paused_seconds: Some(left), .. } => format!("paused, {} left", age(*left)),
        ConsumerState { is_asking: false, .. } => "nobody asks".into(),
        _ => String::new(),
    };
    format!("{name:<18} {pending:>9} {unanswered:>10} {redelivered:>11} {oldest:>8} {handled:>9} {dead_letters:>8}  {remark}")
}

#[expect(clippy::cast_precision_loss, reason = "a rate for people")]
fn per_second(before: u64, now: u64, seconds: f64) -> f64 {
    if seconds > 0.0 { now.saturating_sub(before) as f64 / seconds } else { 0.0 }
}

fn waiting(waiting: Waiting) -> String {
    let oldest = waiting.oldest_seconds.map_or(String::new(), |oldest| format!(", the oldest for {}", age(oldest)));
    format!("{}{oldest}", waiting.count)
}

/// A length of time, as short as it can be said.
pub(crate) fn age(seconds: f64) -> String {
    match seconds {
        ..120.0 => format!("{seconds:.1} s"),
        ..7_200.0 => format!("{:.0} min", seconds / 60.0),
        ..172_800.0 => format!("{:.0} h", seconds / 3_600.0),
        _ => format!("{:.0} d", seconds / 86_400.0),
    }
}
