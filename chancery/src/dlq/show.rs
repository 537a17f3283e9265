//! Dead letters as text and as JSON.

use runtime::letters::{Action, Count, Letter, Page, Standing};
use serde_json::{Map, Value, json};
use subjects::timestamp;
use time::OffsetDateTime;

/// Characters of an error that stand in a list.
const ERROR: usize = 100;

/// What others wrote, without what a terminal would obey.
pub(super) fn plain(text: &str) -> String {
    text.chars().map(|c| if c.is_control() { ' ' } else { c }).collect()
}

/// How long ago, in the largest unit.
fn age(at: OffsetDateTime) -> String {
    let seconds = (OffsetDateTime::now_utc() - at).whole_seconds().max(0);
    match seconds {
        0..120 => format!("{seconds} s"),
        120..7_200 => format!("{} min", seconds / 60),
        7_200..172_800 => format!("{} h", seconds / 3_600),
        _ => format!("{} d", seconds / 86_400),
    }
}

/// The counts, then the letters.
pub(super) fn list(counts: &[Count], page: &Page, as_json: bool) {
    if as_json {
        let counts: Vec<Value> = counts.iter().map(count).collect();
        let letters: Vec<Value> = page.letters.iter().map(summary).collect();
        println!("{}", json!({ "counts": counts, "letters": letters, "next": page.next }));
        return;
    }
    if counts.is_empty() {
        println!("there are none");
        return;
    }
    println!("{:>7}  {:<16} {:<32} oldest", "letters", "consumer", "type");
    for Count { consumer, letter_type, count, oldest } in counts {
        println!("{count:>7}  {consumer:<16} {letter_type:<32} {} ago", age(*oldest));
    }
    println!(
        "\n{:>7}  {:>7}  {:<16} {:<32} {:<43} {:<12} {:>5} {:>8}  error",
        "number", "age", "consumer", "type", "tenant", "reason", "tries", "redrives"
    );
    for letter in &page.letters {
        let Letter { number, consumer, letter_type, reason, deliveries, redrives, .. } = letter;
        let (tenant, error) = (tenant(letter).unwrap_or_else(|| "-".into()), plain(&letter.error));
        let error: String = error.chars().take(ERROR).collect();
        println!(
            "{number:>7}  {:>7}  {consumer:<16} {letter_type:<32} {tenant:<43} {:<12} {deliveries:>5} {redrives:>8}  {error}",
            age(letter.at),
            plain(reason)
        );
    }
    if let Some(next) = page.next {
        println!("there are more: --after {next}");
    }
}

fn tenant(letter: &Letter) -> Option<String> {
    letter.tenant.map(|tenant| tenant.to_string())
}

fn count(Count { consumer, letter_type, count, oldest }: &Count) -> Value {
    json!({ "consumer": consumer, "type": letter_type, "count": count, "oldest": timestamp::format(*oldest) })
}

fn summary(letter: &Letter) -> Value {
    let Letter { number, consumer, letter_type, reason, error, deliveries, redrives, origin_stream, origin_sequence, .. } = letter;
    json!({ "number": number, "at": timestamp::format(letter.at), "consumer": consumer, "type": letter_type, "tenantId": tenant(letter),
        "eventId": letter.event.map(|event| event.to_string()), "reason": reason, "error": error, "deliveries": deliveries, "redrives": redrives,
        "originStream": origin_stream, "originSequence": origin_sequence })
}

/// One letter with everything about it.
pub(super) fn letter(letter: &Letter, standing: &Standing, history: &[Action], as_json: bool) {
    let headers: Map<String, Value> =
        letter.headers.iter().filter_map(|(name, values)| Some((name.to_string(), values.first()?.as_str().into()))).collect();
    let body: Value = serde_json::from_slice(&letter.payload).unwrap_or_else(|_| String::from_utf8_lossy(&letter.payload).into());
    if as_json {
        let mut all = summary(letter);
        all["headers"] = headers.into();
        all["body"] = body;
        all["standing"] = standing_json(standing);
        all["history"] = history.iter().map(action).collect();
        println!("{all}");
        return;
    }
    println!("dead letter {} of {}, {}, {} ago", letter.number, letter.consumer, letter.letter_type, age(letter.at));
    println!("{}: {}", plain(&letter.reason), plain(&letter.error));
    println!("\n{}", says(standing));
    if let Standing::Waiting(_, total, first) = standing {
        first.iter().for_each(|behind| println!("  {} {} ({} of its tenant)", plain(&behind.event), plain(&behind.event_type), behind.sequence));
        if *total > first.len() as u64 {
            println!("  … and {} more", total - first.len() as u64);
        }
    }
    println!();
    for (name, value) in &headers {
        println!("{}: {}", plain(name), plain(value.as_str().unwrap_or_default()));
    }
    // JSON has no control characters of its own but for line breaks.
    let text = serde_json::to_string_pretty(&body).unwrap_or_default();
    println!("\n{text}");
    if !history.is_empty() {
        println!("\nbefore:");
        history.iter().for_each(row);
    }
}

fn says(standing: &Standing) -> String {
    match standing {
        Standing::Command => "a command: it has failed for good; give it again under a new key, then discard the letter".into(),
        Standing::Unordered => "its consumer has gone on without it; redriven, it has it again".into(),
        Standing::Waiting(parked, total, _) if parked.dead => {
            format!("it waits in the queue of {}, and {total} behind it:", plain(&parked.aggregate))
        }
        Standing::Waiting(parked, total, _) => format!("it is tried again in the queue of {}, and {total} wait behind it:", plain(&parked.aggregate)),
        Standing::Gone => "it does not wait any more: it was handled, or discarded".into(),
        Standing::Unreadable => "its consumer asks for order, could not read it, and has gone on behind it".into(),
        Standing::Nobody => "no consumer of that name takes anything again".into(),
    }
}

fn standing_json(standing: &Standing) -> Value {
    match standing {
        Standing::Command => json!({ "kind": "command" }),
        Standing::Unordered => json!({ "kind": "unordered" }),
        Standing::Waiting(parked, total, first) => {
            let first: Vec<Value> =
                first.iter().map(|behind| json!({ "eventId": behind.event, "type": behind.event_type, "sequence": behind.sequence })).collect();
            json!({ "kind": "waiting", "aggregate": parked.aggregate, "givenUp": parked.dead, "attempts": parked.attempts, "redrives": parked.redrives,
                "behind": total, "first": first })
        }
        Standing::Gone => json!({ "kind": "gone" }),
        Standing::Unreadable => json!({ "kind": "unreadable" }),
        Standing::Nobody => json!({ "kind": "nobody" }),
    }
}

/// Who has done what.
pub(super) fn history(actions: &[Action], as_json: bool) {
    if as_json {
        println!("{}", Value::from_iter(actions.iter().map(action)));
    } else {
        actions.iter().for_each(row);
    }
}

fn row(action: &Action) {
    let Action { actor, action: what, consumer, letter, letter_type, redrives, .. } = action;
    let event = action.event.map(|event| format!(" {event}")).unwrap_or_default();
    let reason = action.reason.as_deref().map(|reason| format!(": {}", plain(reason))).unwrap_or_default();
    let at = timestamp::format(action.at);
    println!("{at}  {}  {what} letter {letter} of {consumer}, {letter_type}{event}, redriven {redrives} times before{reason}", plain(actor));
}

fn action(row: &Action) -> Value {
    let Action { actor, action, reason, consumer, letter, letter_type, redrives, .. } = row;
    json!({ "at": timestamp::format(row.at), "actor": actor, "action": action, "reason": reason, "consumer": consumer, "letter": letter,
        "eventId": row.event.map(|event| event.to_string()), "type": letter_type, "tenantId": row.tenant.map(|tenant| tenant.to_string()),
        "redrives": redrives })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ages_are_told_in_their_largest_unit() {
        let ago = |seconds: i64| age(OffsetDateTime::now_utc() - time::Duration::seconds(seconds));
        assert_eq!([ago(-5), ago(5 * 60), ago(3 * 3_600), ago(4 * 86_400)], ["0 s", "5 min", "3 h", "4 d"]);
    }

    #[test]
    fn what_others_wrote_cannot_direct_the_terminal() {
        assert_eq!(plain("a\u{1b}[2Jb\r\nc"), "a [2Jb  c");
    }
}
