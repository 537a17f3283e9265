//! Logs, and spans over OTLP when an endpoint is configured.

use anyhow::Context as _;
use opentelemetry::{KeyValue, trace::TracerProvider as _};
use opentelemetry_otlp::{SpanExporter, WithExportConfig as _};
use opentelemetry_sdk::{Resource, propagation::TraceContextPropagator, trace::SdkTracerProvider};
use runtime::Config;
use tracing_subscriber::{EnvFilter, Layer as _, layer::SubscriberExt as _, util::SubscriberInitExt as _};

/// Keeps the exporter; [`Telemetry::finish`] sends what is left.
#[derive(Debug)]
pub struct Telemetry(Option<SdkTracerProvider>);

/// Starts logging for a role. Call it once, before the role's runtime.
///
/// # Errors
/// The filter or the endpoint cannot be understood.
pub fn start(config: &Config, role: &str) -> anyhow::Result<Telemetry> {
    opentelemetry::global::set_text_map_propagator(TraceContextPropagator::new());
    let filter = EnvFilter::try_new(&config.log).with_context(|| format!("CHANCERY_LOG is not a filter: {:?}", config.log))?;
    let logs = tracing_subscriber::fmt::layer().with_writer(std::io::stderr);
    let logs = if config.log_json { logs.json().flatten_event(true).boxed() } else { logs.with_ansi(false).boxed() };
    let provider = config.otlp_endpoint.as_deref().map(|endpoint| exporter(endpoint, role)).transpose()?;
    let spans = provider.as_ref().map(|provider| tracing_opentelemetry::layer().with_tracer(provider.tracer("chancery")));
    tracing_subscriber::registry().with(filter).with(logs).with(spans).try_init().context("logging is already set up")?;
    Ok(Telemetry(provider))
}

fn exporter(endpoint: &str, role: &str) -> anyhow::Result<SdkTracerProvider> {
    // The variable names the collector; the path of traces is ours to add, as the specification says.
    let exporter = SpanExporter::builder().with_http().with_endpoint(format!("{}/v1/traces", endpoint.trim_end_matches('/'))).build()?;
    let about = [KeyValue::new("service.namespace", "chancery"), KeyValue::new("service.version", env!("CARGO_PKG_VERSION"))];
    let resource = Resource::builder().with_service_name(format!("chancery-{role}")).with_attributes(about).build();
    Ok(SdkTracerProvider::builder().with_batch_exporter(exporter).with_resource(resource).build())
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
    };

    use opentelemetry::trace::{Span as _, Tracer as _};

    use super::*;

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
        let provider = exporter(&format!("http://{address}/"), "worker")?;
        provider.tracer("test").start("work").end();
        Telemetry(Some(provider)).finish();
        let request = heard.join().map_err(|_| anyhow::anyhow!("the collector panicked"))??;
        assert!(request.starts_with("POST /v1/traces HTTP/1.1"), "{request}");
        Ok(())
    }
}
