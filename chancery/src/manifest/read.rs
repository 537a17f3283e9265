//! From TOML to entries. What is missing, unknown or of another type is told together, each with the consumer it stands in.

use std::time::Duration;

use anyhow::{Context as _, bail};
use runtime::consume::{Order, Start};
use time::{OffsetDateTime, UtcOffset, format_description::well_known::Rfc3339};
use toml::{Table, Value};

use super::Entry;

/// What the settings of an entry are called.
const SETTINGS: [&str; 12] =
    ["name", "owner", "about", "filters", "order", "start", "ack_wait_s", "max_deliver", "max_ack_pending", "backoff_s", "schema", "outside"];

const PASSES_OVER: &str =
    "a consumer begins with `all`, with `new`, or at a time like 2026-11-01T00:00:00Z: anything else passes over events that it wants";

/// Settings of JetStream that are not to be had, as they lose messages, and why.
const LOSES: [(&str, &str); 16] = [
    ("ack_policy", "acknowledgements are always explicit: `none` forgets what was on its way, and `all` acknowledges what others still work on"),
    ("memory_storage", "the durable is kept on file: in memory its place would be lost with a server"),
    ("storage", "the durable is kept on file: in memory its place would be lost with a server"),
    ("num_replicas", "the durable has as many replicas as the stream: with fewer its place would be lost before the events are"),
    ("replicas", "the durable has as many replicas as the stream: with fewer its place would be lost before the events are"),
    ("inactive_threshold", "a consumer that was away for longer would be deleted with its place"),
    ("inactive_threshold_s", "a consumer that was away for longer would be deleted with its place"),
    ("deliver_subject", "events are pulled: pushed at a slow client it would lose what its connection cannot take"),
    ("deliver_group", "events are pulled: replicas share the durable without a group"),
    ("flow_control", "events are pulled: whoever pulls is its own flow control"),
    ("deliver_policy", PASSES_OVER),
    ("opt_start_seq", PASSES_OVER),
    ("opt_start_time", PASSES_OVER),
    ("headers_only", "an event without its body is none: bodies are what consumers want"),
    ("rate_limit_bps", "it throttles pushed delivery only; max_ack_pending is what bounds a consumer"),
    ("backoff", "the server's own delays replace ack_wait and end with max_deliver, without a dead letter; backoff_s is what the program asks for"),
];

/// The entries of a text, and what is wrong with those that are left out or incomplete.
pub(super) fn entries(text: &str) -> anyhow::Result<(Vec<Entry>, Vec<String>)> {
    let mut table: Table = text.parse().context("it is no TOML")?;
    let consumers = table.remove("consumer").unwrap_or_else(|| Value::Array(Vec::new()));
    if let Some(other) = table.keys().next() {
        bail!("`{other}` is nothing that a manifest has: it consists of [[consumer]]");
    }
    let Value::Array(consumers) = consumers else { bail!("`consumer` is a list: each begins with [[consumer]]") };
    let (mut entries, mut wrong) = (Vec::new(), Vec::new());
    for (place, value) in consumers.into_iter().enumerate() {
        let Value::Table(settings) = value else { bail!("`consumer` is a list of tables: each begins with [[consumer]]") };
        let name = settings.get("name").and_then(Value::as_str).map_or_else(|| format!("consumer {}", place + 1), str::to_owned);
        let mut reader = Reader { settings, wrong: Vec::new() };
        let entry = reader.entry();
        wrong.extend(reader.wrong.into_iter().map(|what| format!("{name}: {what}")));
        entries.extend(entry);
    }
    Ok((entries, wrong))
}

struct Reader {
    settings: Table,
    wrong: Vec<String>,
}

impl Reader {
    /// The entry, if it is complete.
    fn entry(&mut self) -> Option<Entry> {
        let unknown: Vec<String> = self.settings.keys().filter(|key| !SETTINGS.contains(&key.as_str())).cloned().collect();
        for key in unknown {
            let loses = LOSES.iter().find(|(name, _)| *name == key);
            self.wrong.push(loses.map_or_else(|| format!("{key} is no setting of a consumer"), |(_, why)| format!("{key}: {why}")));
        }
        // All are looked at before anything is given up, so that all that is wrong is told.
        let name = self.text("name").map(leaked);
        let owner = self.text("owner");
        let about = self.text("about");
        let filters = self.texts("filters", true).map(|filters| filters.into_iter().map(leaked).collect());
        let order = self.one_of("order", &[("none", Order::None), ("aggregate", Order::Aggregate)], "it is `none` or `aggregate`");
        let start = self.start(order);
        let ack_wait = self.seconds("ack_wait_s");
        let max_deliver = self.max_deliver();
        let max_ack_pending = self.whole("max_ack_pending");
        let backoff = self.delays();
        let schema = if self.settings.contains_key("schema") { self.text("schema").map(Some) } else { Some(None) };
        let outside = self.texts("outside", false);
        Some(Entry {
            name: name?,
            owner: owner?,
            about: about?,
            filters: filters?,
            order: order?,
            start: start?,
            ack_wait: ack_wait?,
            max_deliver: max_deliver?,
            max_ack_pending: max_ack_pending?,
            backoff: backoff?,
            schema: schema?,
            outside: outside?,
        })
    }

    fn say<T>(&mut self, what: String) -> Option<T> {
        self.wrong.push(what);
        None
    }

    fn value(&mut self, key: &str) -> Option<Value> {
        let value = self.settings.get(key).cloned();
        if value.is_none() { self.say(format!("{key} is missing")) } else { value }
    }

    fn text(&mut self, key: &str) -> Option<String> {
        match self.value(key)? {
            Value::String(text) => Some(text.trim().to_owned()),
            _ => self.say(format!("{key} is a text")),
        }
    }

    fn texts(&mut self, key: &str, required: bool) -> Option<Vec<String>> {
        if !required && !self.settings.contains_key(key) {
            return Some(Vec::new());
        }
        let texts = match self.value(key)? {
            Value::Array(values) => values.into_iter().map(|value| if let Value::String(text) = value { Some(text) } else { None }).collect(),
            _ => None,
        };
        if texts.is_none() { self.say(format!("{key} is a list of texts")) } else { texts }
    }

    fn one_of<T: Copy>(&mut self, key: &str, known: &[(&str, T)], otherwise: &str) -> Option<T> {
        let text = self.text(key)?;
        match known.iter().find(|(name, _)| *name == text) {
            Some((_, value)) => Some(*value),
            None => self.say(format!("{key} = {text:?}: {otherwise}")),
        }
    }

    fn start(&mut self, order: Option<Order>) -> Option<Start> {
        let text = self.text("start")?;
        match (text.as_str(), OffsetDateTime::parse(&text, &Rfc3339)) {
            ("all", _) => Some(Start::All),
            ("new", _) => Some(Start::New),
            (_, Ok(_)) if order == Some(Order::Aggregate) => {
                self.say(format!("start = {text:?}: in the order of each aggregate it begins with `all` or with `new`"))
            }
            (_, Ok(time)) => Some(Start::At(time.to_offset(UtcOffset::UTC))),
            (_, Err(_)) => self.say(format!("start = {text:?}: {PASSES_OVER}")),
        }
    }

    fn whole(&mut self, key: &str) -> Option<u32> {
        match self.value(key)? {
            Value::Integer(number) => match u32::try_from(number) {
                Ok(number) => Some(number),
                Err(_) => self.say(format!("{key} = {number} is out of range")),
            },
            _ => self.say(format!("{key} is a whole number")),
        }
    }

    fn max_deliver(&mut self) -> Option<u32> {
        match self.value("max_deliver")? {
            Value::String(text) if text == "unlimited" => Some(u32::MAX),
            Value::Integer(number) if (0..i64::from(u32::MAX)).contains(&number) => u32::try_from(number).ok(),
            _ => self.say("max_deliver is a whole number, or \"unlimited\"".into()),
        }
    }

    fn seconds(&mut self, key: &str) -> Option<Duration> {
        let value = self.value(key)?;
        let duration = duration(&value);
        if duration.is_none() { self.say(format!("{key} is a number of seconds")) } else { duration }
    }

    fn delays(&mut self) -> Option<Vec<Duration>> {
        let delays = match self.value("backoff_s")? {
            Value::Array(values) => values.iter().map(duration).collect(),
            _ => None,
        };
        if delays.is_none() { self.say("backoff_s is a list of seconds".into()) } else { delays }
    }
}

fn duration(value: &Value) -> Option<Duration> {
    let seconds = match value {
        #[expect(clippy::cast_precision_loss, reason = "nobody waits for so long")]
        Value::Integer(whole) => *whole as f64,
        Value::Float(seconds) => *seconds,
        _ => return None,
    };
    Duration::try_from_secs_f64(seconds).ok()
}

/// A manifest is read once a process, and names from it stand wherever a durable does.
fn leaked(text: String) -> &'static str {
    Box::leak(text.into_boxed_str())
}
