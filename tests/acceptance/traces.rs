//! One trace from the request to every consumer, whatever happens to the event on the way.

use std::{
    collections::{BTreeMap, BTreeSet},
    time::{Duration, Instant},
};

use chancery::role::Consumer;
use chancery_kit::telemetry;
use futures_util::future::join_all;
use hyper::Method;
use opentelemetry_proto::tonic::trace::v1::span::SpanKind;
use serde_json::{Value, json};
use subjects::{CommandId, EventId, TenantId, header, stream as names};
use uuid::Uuid;

use crate::{
    consumers::{
        Tenant, address, count, followed,
        in_order::{FOLLOWER, Follower},
        invite, tenant,
    },
    harness::{Answer, Builder, Collector, Seen, Stack, blocking, wait_until},
    recovery::{make_holes, run},
};

/// The span of the client that asks.
const CLIENT: &str = "b7ad6b7169203331";
/// What the client says about itself.
const AGENT: &str = "traces-of-somebody/1.0";
const STATE: &str = "vendor=something";
/// How long spans may take to arrive.
const LIMIT: Duration = Duration::from_secs(60);

/// Roles whose spans arrive soon.
fn stack(collector: &Collector) -> Builder {
    Stack::builder().env("OTEL_EXPORTER_OTLP_ENDPOINT", collector.url()).env("OTEL_BSP_SCHEDULE_DELAY", 50)
}

fn trace() -> String {
    Uuid::new_v4().simple().to_string()
}

/// A request of a client with a trace.
async fn ask(stack: &Stack, method: Method, path: &str, (trace, flags): (&str, &str), more: &[(&str, &str)], body: &Value) -> Answer {
    let parent = format!("00-{trace}-{CLIENT}-{flags}");
    let mut headers = vec![("traceparent", parent.as_str()), ("tracestate", STATE), ("user-agent", AGENT)];
    headers.extend_from_slice(more);
    stack.call(method, path, &stack.operator_token(), &headers, body).await
}

async fn traced_invite(stack: &Stack, tenant: &Tenant, trace: (&str, &str), more: &[(&str, &str)]) -> Answer {
    let body = json!({ "email": address("guest"), "role": "member" });
    ask(stack, Method::POST, &tenant.path("/invitations"), trace, more, &body).await
}

/// An event as the table has it.
struct Caused {
    id: String,
    event_type: String,
    subject: String,
    command: String,
    /// The span that is stored with it.
    span: String,
}

/// The events that are stored with a trace.
async fn caused(stack: &Stack, trace: &str) -> Vec<Caused> {
    let sql = "SELECT id, type, tenant_id, command_id, meta->>'traceparent' FROM events WHERE meta->>'traceparent' LIKE '00-' || $1 || '-%'";
    let rows = stack.db().await.query(sql, &[&trace]).await.unwrap();
    rows.iter()
        .map(|row| {
            let (event_type, parent): (String, String) = (row.get(1), row.get(4));
            Caused {
                id: EventId::new(row.get(0)).to_string(),
                subject: subjects::event(TenantId::new(row.get(2)), &event_type),
                command: CommandId::new(row.get(3)).to_string(),
                span: parent.split('-').nth(2).unwrap().to_owned(),
                event_type,
            }
        })
        .collect()
}

/// The spans of a trace by what they are called.
struct Chain<'a>(&'a [Seen]);

impl Chain<'_> {
    fn by_id(&self, id: &str) -> Result<&Seen, String> {
        self.0.iter().find(|span| span.id == id).ok_or_else(|| format!("no span {id}"))
    }

    /// From an event up to the client: the command's span, that of its publishing, and what is above that.
    fn above(&self, event: &Caused) -> Result<(), String> {
        let decided = self.by_id(&event.span)?;
        let messaging = |span: &Seen, name: &str, kind, command: &str| {
            span.name == format!("{name} cmd.{{partition}}.{{tenant}}.{}", span.name.rsplit_once("{tenant}.").map_or("", |(_, rest)| rest))
                && span.kind == kind
                && span.attribute("messaging.system") == "nats"
                && span.attribute("messaging.message.id") == command
        };
        assert!(messaging(decided, "process", SpanKind::Consumer, &event.command) && decided.service == "chancery-worker", "{decided:?}");
        assert_eq!(decided.attribute("chancery.command.outcome"), "succeeded", "{decided:?}");
        let given = self.by_id(&decided.parent)?;
        assert!(messaging(given, "publish", SpanKind::Producer, &event.command), "{given:?}");
        let asked = self.by_id(&given.parent)?;
        if asked.kind == SpanKind::Server {
            assert_eq!((asked.service.as_str(), asked.parent.as_str()), ("chancery-gateway", CLIENT), "{asked:?}");
        } else {
            // A reactor's answer to another event of the trace.
            assert_eq!((asked.kind, asked.service.as_str()), (SpanKind::Consumer, given.service.as_str()), "{asked:?}");
            assert!(self.by_id(&asked.parent)?.service == "chancery-worker", "{asked:?}");
        }
        Ok(())
    }

    /// From an event down to every consumer that takes it; who that is.
    fn below(&self, event: &Caused) -> Result<Vec<&'static str>, String> {
        let takes = |consumer: &Consumer| consumer.filters().iter().any(|filter| subjects::matches(filter, &event.subject));
        let mut seen = Vec::new();
        for consumer in Consumer::ALL.into_iter().filter(takes) {
            let name = consumer.name();
            let is_its = |span: &&Seen| span.service == format!("chancery-{name}") && span.attribute("messaging.message.id") == event.id;
            let handled = self.0.iter().find(is_its).ok_or_else(|| format!("{name} has no span of {} {}", event.event_type, event.id))?;
            assert_eq!(handled.parent, event.span, "{handled:?}");
            assert_eq!((handled.kind, handled.failed), (SpanKind::Consumer, false), "{handled:?}");
            assert_eq!(handled.name, format!("process evt.{{tenant}}.{}", event.event_type));
            assert_eq!(handled.attribute("messaging.consumer.group.name"), name);
            seen.push(name);
        }
        Ok(seen)
    }
}

/// Waits until a trace is whole with events of these types; the consumers in it.
async fn whole(stack: &Stack, collector: &Collector, trace: &str, types: &[&str]) -> BTreeSet<&'static str> {
    let begin = Instant::now();
    loop {
        let events = caused(stack, trace).await;
        let spans = collector.of(trace);
        let chain = Chain(&spans);
        let complete = || -> Result<BTreeSet<&'static str>, String> {
            let missing = types.iter().find(|wanted| events.iter().all(|event| event.event_type != **wanted));
            missing.map_or(Ok(()), |missing| Err(format!("no {missing}")))?;
            let mut consumers = BTreeSet::new();
            for event in &events {
                chain.above(event)?;
                consumers.extend(chain.below(event)?);
            }
            Ok(consumers)
        };
        match complete() {
            Ok(consumers) => return consumers,
            Err(lacking) if begin.elapsed() > LIMIT => panic!("{lacking}\n{spans:#?}"),
            Err(_) => tokio::time::sleep(Duration::from_millis(50)).await,
        }
    }
}

/// Nothing that tells who somebody is.
fn assert_impersonal(spans: &[Seen]) {
    for span in spans {
        assert_eq!(span.events, 0, "a line of the log is in a span: {span:?}");
        let said = format!("{} {:?}", span.name, span.attributes);
        for personal in ["@", "example.com", "127.0.0.1", AGENT, "Own Er", "Acme", "Gone"] {
            assert!(!said.contains(personal), "{personal}: {span:?}");
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn one_request_is_one_trace_down_to_every_consumer() {
    let collector = Collector::start().await;
    let stack = stack(&collector).consumers(&Consumer::ALL).env("CHANCERY_SOFT_DELETION_S", 0).start().await;
    let (home, other) = (tenant(&stack).await, tenant(&stack).await);
    let email = address("gone");
    let body = json!({ "email": email, "fullName": "Gone Guest", "role": "member" });
    let user = stack.post(&home.path("/users"), &stack.operator_token(), &body).await.expect(201).text_at("/aggregateId");
    invite(&stack, &other, &email).await;
    stack.post(&home.path(&format!("/users/{user}/deactivate")), &stack.operator_token(), &json!({})).await.expect(200);
    // Not kept by its client: none of it is.
    let quiet = trace();
    traced_invite(&stack, &home, (&quiet, "00"), &[]).await.expect(201);

    let invited = trace();
    traced_invite(&stack, &home, (&invited, "01"), &[]).await.expect(201);
    let mut consumers = whole(&stack, &collector, &invited, &["invitation.created", "invitation.sent"]).await;
    let deleted = trace();
    ask(&stack, Method::DELETE, &home.path(&format!("/users/{user}")), (&deleted, "01"), &[], &Value::Null).await.expect(200);
    consumers.extend(whole(&stack, &collector, &deleted, &["user.deleted", "invitation.removed"]).await);
    assert_eq!(consumers, Consumer::ALL.map(Consumer::name).into());

    // The transaction and the publishing are below the command, or linked to it.
    for event in caused(&stack, &invited).await {
        let belongs = |span: &Seen| span.service == "chancery-worker" && (span.parent == event.span || span.links.contains(&event.span));
        for what in ["batch", "publish"] {
            let is_there = || collector.spans().iter().any(|span| belongs(span) && span.name.split(' ').next() == Some(what));
            wait_until(&format!("the {what} of {}", event.event_type), async || is_there()).await;
        }
    }
    // It goes on all the same, as it came but for the span, and costs nobody a span.
    let events = caused(&stack, &quiet).await;
    assert!(!events.is_empty());
    followed(&stack, Consumer::Logging).await;
    assert!(collector.of(&quiet).is_empty(), "{:?}", collector.of(&quiet));
    assert_impersonal(&collector.spans());
}

/// What the messages of EVENTS carry, by event.
async fn carried(stack: &Stack) -> BTreeMap<String, (String, String)> {
    let stream = stack.jetstream().await.get_stream(names::EVENTS).await.unwrap();
    let state = &stream.cached_info().state;
    let mut carried = BTreeMap::new();
    for sequence in state.first_sequence..=state.last_sequence {
        let Ok(message) = stream.get_raw_message(sequence).await else { continue };
        let text = |name: &str| message.headers.get(name).map(|value| value.as_str().to_owned());
        if let (Some(id), Some(parent)) = (text(header::MESSAGE_ID), text(header::TRACEPARENT)) {
            carried.insert(id, (parent, text(header::TRACESTATE).unwrap_or_default()));
        }
    }
    carried
}

#[tokio::test(flavor = "multi_thread")]
async fn an_event_that_is_published_again_keeps_its_trace() {
    let collector = Collector::start().await;
    let stack = stack(&collector).consumers(&[Consumer::Onboarding, Consumer::Audit]).start().await;
    let tenant = tenant(&stack).await;
    let trace = trace();
    traced_invite(&stack, &tenant, (&trace, "01"), &[]).await.expect(201);
    let sent = "SELECT count(*) FROM events WHERE type = 'invitation.sent'";
    wait_until("the reactor has answered", async || count(&stack, sent).await == 1).await;
    // Only the newest message of a subject outlives what follows.
    invite(&stack, &tenant, &address("guest")).await;
    wait_until("it is answered, too", async || count(&stack, sent).await == 2).await;
    followed(&stack, Consumer::Audit).await;
    let ours: Vec<String> = caused(&stack, &trace).await.into_iter().map(|event| event.id).collect();
    let before = carried(&stack).await;
    assert!(ours.len() >= 2 && ours.iter().all(|id| before[id].0.contains(&trace) && before[id].1 == STATE), "{ours:?} {before:?}");

    let lost = make_holes(&stack, Duration::from_secs(2)).await;
    let left = carried(&stack).await;
    assert!(lost > 0 && ours.iter().any(|id| !left.contains_key(id)), "{lost}");
    run(&stack, &["events", "reconcile"]).await.expect(0);
    assert_eq!(carried(&stack).await, before, "mended");
    run(&stack, &["events", "rebuild", "--replace"]).await.expect(0);
    assert_eq!(carried(&stack).await, before, "built anew");
}

#[tokio::test(flavor = "multi_thread")]
async fn commands_that_share_a_transaction_are_linked_and_each_keeps_its_trace() {
    let collector = Collector::start().await;
    let mut stack = stack(&collector).consumers(&[Consumer::Logging]).start().await;
    let tenant = tenant(&stack).await;
    followed(&stack, Consumer::Logging).await;
    assert!(stack.stop("worker-1") && stack.stop("logging"));
    let traces: Vec<String> = (0..20).map(|_| trace()).collect();
    let asked = traces.iter().map(|trace| traced_invite(&stack, &tenant, (trace, "01"), &[("prefer", "respond-async")]));
    join_all(asked).await.into_iter().for_each(|answer| drop(answer.expect(202)));
    stack.start_again("worker-1", &[]);
    wait_until("all are decided", async || count(&stack, "SELECT count(*) FROM events WHERE type = 'invitation.created'").await == 20).await;
    wait_until("all are published", async || count(&stack, "SELECT count(*) FROM partitions WHERE mark_sequence < sequence").await == 0).await;
    stack.start_again("logging", &[]);
    for trace in &traces {
        assert_eq!(whole_for(&stack, &collector, trace, "logging").await, 1);
    }
    // Each of the three that serve several at once has a trace of its own; what it did for whom shows from both ends.
    for (service, name, linked_back) in
        [("chancery-worker", "batch", true), ("chancery-worker", "publish EVENTS", false), ("chancery-logging", "process EVENTS", true)]
    {
        let found = || {
            let spans = collector.spans();
            let ours: BTreeMap<&str, &Seen> = spans.iter().filter(|span| traces.contains(&span.trace)).map(|span| (span.id.as_str(), span)).collect();
            let is_one = |span: &&Seen| span.service == service && span.name == name && span.links.iter().any(|id| ours.contains_key(id.as_str()));
            let several = spans.iter().find(is_one)?.clone();
            let of: Vec<Option<Seen>> = several.links.iter().map(|id| ours.get(id.as_str()).map(|span| (*span).clone())).collect();
            Some((several, of))
        };
        wait_until(name, async || found().is_some()).await;
        let (several, of) = found().unwrap();
        assert!(several.parent.is_empty() && !traces.contains(&several.trace) && of.len() > 1, "{several:?}");
        for one in of {
            let one = one.unwrap_or_else(|| panic!("{name} is linked to what is not ours: {several:?}"));
            assert_eq!(one.links.contains(&several.id), linked_back, "{one:?}");
        }
    }
    assert_impersonal(&collector.spans());
}

/// How many events of a trace a consumer has a span of, once there are all.
async fn whole_for(stack: &Stack, collector: &Collector, trace: &str, consumer: &str) -> usize {
    let events = caused(stack, trace).await;
    let service = format!("chancery-{consumer}");
    let has = |event: &Caused| collector.of(trace).iter().any(|span| span.service == service && span.parent == event.span);
    wait_until("the consumer's spans", async || events.iter().all(has)).await;
    events.len()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_consumer_in_order_is_in_the_trace() {
    let collector = Collector::start().await;
    let stack = stack(&collector).start().await;
    let mut config = stack.config();
    config.log = "off".into();
    // The process of the test is the consumer's.
    let telemetry = blocking(|| telemetry::start(&config, "follower").unwrap());
    let follower = Follower::of(FOLLOWER, config, async |_, _| Ok(()));
    let tenant = tenant(&stack).await;
    let trace = trace();
    traced_invite(&stack, &tenant, (&trace, "01"), &[]).await.expect(201);
    let left = "SELECT (SELECT max(sequence) FROM events) - coalesce((SELECT max(sequence) FROM consumer_marks WHERE consumer = 'follower'), 0)";
    wait_until("it has followed", async || count(&stack, left).await == 0).await;
    follower.end();
    blocking(|| telemetry.finish());
    assert_eq!(whole_for(&stack, &collector, &trace, "follower").await, 1);
    let spans = collector.of(&trace);
    let handled = spans.iter().find(|span| span.service == "chancery-follower").unwrap();
    assert_eq!((handled.name.as_str(), handled.kind), ("process evt.{tenant}.invitation.created", SpanKind::Consumer));
}
