//! Logs, and spans and metrics over OTLP when an endpoint is configured. Log and spans have a filter each, and nothing of the log
//! goes into a span.

pub mod metrics;

use anyhow::Context as _;
use opentelemetry::{
    Context, KeyValue,
    trace::{Link, SpanKind, TraceContextExt as _, TraceId, TracerProvider as _},
};
use opentelemetry_otlp::{SpanExporter, WithExportConfig as _};
use opentelemetry_sdk::{
    Resource,
    propagation::TraceContextPropagator,
    trace::{Sampler, SamplingResult, SdkTracerProvider, ShouldSample},
};
use runtime::{Config, config};
use tracing::Subscriber;
use tracing_subscriber::{
    EnvFilter, Layer,
    filter::{FilterExt as _, filter_fn},
    layer::SubscriberExt as _,
    registry::LookupSpan,
    util::SubscriberInitExt as _,
};

/// Keeps the exporter; [`Telemetry::finish`] sends what is left.
#[derive(Debug)]
pub struct Telemetry(Option<SdkTracerProvider>);

/// Starts logging for a role. Call it once, before the role's runtime.
///
/// # Errors
/// A filter or the endpoint cannot be understood.
pub fn start(config: &Config, role: &str) -> anyhow::Result<Telemetry> {
    opentelemetry::global::set_text_map_propagator(TraceContextPropagator::new());
    let logs = tracing_subscriber::fmt::layer().with_writer(std::io::stderr);
    let logs = if config.log_json { logs.json().flatten_event(true).boxed() } else { logs.with_ansi(false).boxed() };
    let logs = logs.with_filter(filter("CHANCERY_LOG", &config.log)?);
    let provider = config.otlp_endpoint.as_deref().map(|endpoint| exporter(endpoint, role, sampler(config))).transpose()?;
    let kept = filter("CHANCERY_TRACE", &config.trace)?;
    let spans = provider.as_ref().map(|provider| spans(provider, kept));
    tracing_subscriber::registry().with(logs).with(spans).try_init().context("logging is already set up")?;
    Ok(Telemetry(provider))
}

fn filter(variable: &str, text: &str) -> anyhow::Result<EnvFilter> {
    EnvFilter::try_new(text).with_context(|| format!("{variable} is not a filter: {text:?}"))
}

/// Spans alone: a line of the log that is written inside one stays in the log, where it is known what it may hold.
fn spans<S>(provider: &SdkTracerProvider, filter: EnvFilter) -> impl Layer<S>
where
    S: Subscriber + for<'span> LookupSpan<'span>,
{
    let layer = tracing_opentelemetry::layer().with_tracer(provider.tracer("chancery"));
    // Where in the source a span is made and on which thread says nothing that its name does not.
    let layer = layer.with_location(false).with_threads(false).with_target(false).with_tracked_inactivity(false);
    layer.with_filter(filter.and(filter_fn(|metadata| metadata.is_span())))
}

fn exporter(endpoint: &str, role: &str, sampler: Linked) -> anyhow::Result<SdkTracerProvider> {
    // The variable names the collector; the path of traces is ours to add, as the specification says.
    let exporter = SpanExporter::builder().with_http().with_endpoint(format!("{}/v1/traces", endpoint.trim_end_matches('/'))).build()?;
    let about = [KeyValue::new("service.namespace", "chancery"), KeyValue::new("service.version", env!("CARGO_PKG_VERSION"))];
    let resource = Resource::builder().with_service_name(format!("chancery-{role}")).with_attributes(about).build();
    Ok(SdkTracerProvider::builder().with_batch_exporter(exporter).with_sampler(sampler).with_resource(resource).build())
}

fn sampler(config: &Config) -> Linked {
    let root = match config.sampler {
        config::Sampler::All => Sampler::AlwaysOn,
        config::Sampler::None => Sampler::AlwaysOff,
        config::Sampler::Share => Sampler::TraceIdRatioBased(config.sampled),
    };
    Linked(Sampler::ParentBased(Box::new(root)))
}

/// What is done for several at once has a trace of its own, linked to theirs. It is kept where one of theirs is.
#[derive(Debug, Clone)]
struct Linked(Sampler);

impl ShouldSample for Linked {
    fn should_sample(
        &self,
        parent: Option<&Context>,
        trace: TraceId,
        name: &str,
        kind: &SpanKind,
        attributes: &[KeyValue],
        links: &[Link],
    ) -> SamplingResult {
        let begins = parent.is_none_or(|parent| !parent.span().span_context().is_valid());
        if begins && links.iter().any(|link| link.span_context.is_sampled()) {
            return Sampler::AlwaysOn.should_sample(parent, trace, name, kind, attributes, links);
        }
        self.0.should_sample(parent, trace, name, kind, attributes, links)
    }
}

impl Telemetry {
    /// Sends the spans that are still waiting.
    pub fn finish(self) {
        if let Some(provider) = self.0 {
            let _ = provider.shutdown();
        }
    }
}

#[cfg(test)]
mod tests {
    use std::{
        io::{Read as _, Write as _},
        net::TcpListener,
        sync::{Arc, Mutex, PoisonError},
    };

    use opentelemetry::{
        SpanId, TraceFlags,
        trace::{Span as _, SpanContext, TraceState, Tracer as _},
    };
    use opentelemetry_sdk::{
        error::OTelSdkResult,
        trace::{SamplingDecision, SpanData, SpanExporter},
    };

    use super::*;

    /// Keeps what it is to export.
    #[derive(Debug, Clone, Default)]
    struct Kept(Arc<Mutex<Vec<SpanData>>>);

    impl SpanExporter for Kept {
        async fn export(&self, batch: Vec<SpanData>) -> OTelSdkResult {
            self.0.lock().unwrap_or_else(PoisonError::into_inner).extend(batch);
            Ok(())
        }
    }

    /// The spans of some work under a log that shows nothing and a filter for spans.
    fn traced(filter: &str, work: impl FnOnce()) -> anyhow::Result<Vec<SpanData>> {
        let kept = Kept::default();
        let provider = SdkTracerProvider::builder().with_simple_exporter(kept.clone()).build();
        let logs = tracing_subscriber::fmt::layer().with_writer(std::io::sink).with_filter(EnvFilter::try_new("off")?);
        let subscriber = tracing_subscriber::registry().with(logs).with(spans(&provider, EnvFilter::try_new(filter)?));
        tracing::subscriber::with_default(subscriber, work);
        let kept = kept.0.lock().unwrap_or_else(PoisonError::into_inner);
        Ok(kept.clone())
    }

    #[test]
    fn what_the_log_hides_is_traced_and_what_it_shows_is_in_no_span() -> anyhow::Result<()> {
        let work = || {
            let span = tracing::info_span!(target: "runtime::worker", "work");
            span.in_scope(|| tracing::error!(target: "runtime::worker", mail = "somebody@example.com", "a line"));
            tracing::info_span!(target: "elsewhere", "not ours");
        };
        let found = traced("chancery=info,command_gateway=info,runtime=info", work)?;
        assert_eq!(found.iter().map(|span| span.name.as_ref()).collect::<Vec<_>>(), ["work"]);
        assert!(found[0].events.is_empty() && !format!("{found:?}").contains("example.com"), "{found:?}");
        assert!(traced("off", work)?.is_empty());
        Ok(())
    }

    #[test]
    fn work_for_several_is_kept_where_one_of_them_is() {
        let sampler = Linked(Sampler::ParentBased(Box::new(Sampler::AlwaysOff)));
        let context = |flags| SpanContext::new(TraceId::from(7), SpanId::from(7), flags, true, TraceState::NONE);
        let decide = |parent: &Context, flags| {
            let links = [Link::with_context(context(flags))];
            sampler.should_sample(Some(parent), TraceId::from(9), "batch", &SpanKind::Internal, &[], &links).decision
        };
        assert_eq!(decide(&Context::new(), TraceFlags::SAMPLED), SamplingDecision::RecordAndSample);
        assert_eq!(decide(&Context::new(), TraceFlags::NOT_SAMPLED), SamplingDecision::Drop);
        // Whoever continues a trace does what that trace does.
        let parent = Context::new().with_remote_span_context(context(TraceFlags::NOT_SAMPLED));
        assert_eq!(decide(&parent, TraceFlags::SAMPLED), SamplingDecision::Drop);
    }

    #[test]
    fn a_span_reaches_the_collector_when_the_role_ends() -> anyhow::Result<()> {
        let collector = TcpListener::bind(("127.0.0.1", 0))?;
        let address = collector.local_addr()?;
        let heard = std::thread::spawn(move || -> std::io::Result<String> {
            let (mut stream, _) = collector.accept()?;
            let mut request = [0; 4096];
            let length = stream.read(&mut request)?;
            stream.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\nConnection: close\r\n\r\n")?;
            Ok(String::from_utf8_lossy(&request[..length]).into_owned())
        });
        let provider = exporter(&format!("http://{address}/"), "worker", Linked(Sampler::AlwaysOn))?;
        provider.tracer("test").start("work").end();
        Telemetry(Some(provider)).finish();
        let request = heard.join().map_err(|_| anyhow::anyhow!("the collector panicked"))??;
        assert!(request.starts_with("POST /v1/traces HTTP/1.1"), "{request}");
        Ok(())
    }
}
