//! Alarms: what nats-server says it gave up delivering. Our own consumers let it give nothing up (they count, and store a dead letter), so
//! whatever it says is about another team's durable, whose event is lost to it without a trace but this.

use std::{
    collections::BTreeMap,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
};

use async_nats::jetstream::{
    Context,
    stream::{DirectGetErrorKind, Stream},
};
use serde::Deserialize;
use subjects::stream as names;

use crate::{Config, Stop, metrics, nats, streams};

/// Advisories read in one look, at most; the others are for the next.
const READ: usize = 1_000;

/// As much of an advisory as is told.
#[derive(Debug, Default, Deserialize)]
struct Advisory {
    #[serde(default)]
    stream: String,
    #[serde(default)]
    consumer: String,
    #[serde(default)]
    stream_seq: u64,
}

/// What is told of one durable.
#[derive(Debug, Default, PartialEq, Eq)]
struct Told {
    count: u64,
    last: u64,
}

/// Looks for news until `stop`, while this worker has the first partition. What an earlier owner has told is told once more.
pub(crate) async fn run(config: Config, context: Context, first: Arc<AtomicBool>, stop: Stop) {
    let alarms = metrics::counter(
        "chancery_advisories_total",
        "Messages that nats-server gave up delivering to some durable, told once by each worker that looks",
    );
    let mut seen = Seen::default();
    loop {
        tokio::select! {
            () = stop.cancelled() => return,
            () = tokio::time::sleep(config.advisories_look) => {}
        }
        if !first.load(Ordering::Relaxed) {
            continue;
        }
        match look(&context, &mut seen).await {
            Ok(told) => {
                for ((stream, consumer), Told { count, last }) in told {
                    alarms.inc_by(count);
                    tracing::error!(
                        stream.name = stream,
                        consumer.name = consumer,
                        count,
                        stream.sequence = last,
                        "nats-server has given up delivering messages; the durable that should have had them must read them again"
                    );
                }
            }
            Err(error) => tracing::debug!(error, "the advisories are out of reach"),
        }
    }
}

/// How far the advisories were told.
#[derive(Debug, Default)]
struct Seen {
    life: i64,
    sequence: u64,
}

async fn look(context: &Context, seen: &mut Seen) -> Result<BTreeMap<(String, String), Told>, String> {
    let mut told = BTreeMap::new();
    // Made by a provisioner of this version; until then there is nothing to tell.
    let Some(stream) = streams::look_at(context, names::ADVISORIES).await? else { return Ok(told) };
    let (info, life) = (stream.cached_info(), streams::life(stream.cached_info()));
    if seen.life != life {
        *seen = Seen { life, sequence: 0 };
    }
    for _ in 0..READ {
        if seen.sequence >= info.state.last_sequence {
            break;
        }
        let Some((sequence, advisory)) = next(&stream, seen.sequence + 1).await? else { break };
        seen.sequence = sequence;
        let of: &mut Told = told.entry((advisory.stream, advisory.consumer)).or_default();
        of.count += 1;
        of.last = of.last.max(advisory.stream_seq);
    }
    Ok(told)
}

/// The first advisory at or after a place.
async fn next(stream: &Stream, from: u64) -> Result<Option<(u64, Advisory)>, String> {
    let asked = async {
        match stream.direct_get_next_for_subject(">", Some(from)).await {
            Ok(message) => Ok(Some((message.sequence, serde_json::from_slice(&message.payload).unwrap_or_default()))),
            Err(error) if error.kind() == DirectGetErrorKind::NotFound => Ok(None),
            Err(error) => Err(error),
        }
    };
    nats::ask_api("DIRECT.GET.ADVISORIES", asked).await
}
