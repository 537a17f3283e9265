//! A deployment of before there were redrives: its stream and its durables are widened, and nothing else about them changes.

use std::time::Duration;

use async_nats::jetstream::{
    consumer::{FromConsumer as _, pull},
    stream,
};
use chancery::{provision, role::Consumer};
use subjects::stream as names;

use crate::{
    consumers::{audited, tenant},
    harness::{Stack, blocking},
};

#[tokio::test(flavor = "multi_thread")]
async fn the_stream_and_the_durables_of_an_older_release_are_widened_and_otherwise_as_they_were() {
    let mut stack = Stack::builder().consumers(&[Consumer::Audit]).start().await;
    tenant(&stack).await;
    audited(&stack).await;
    assert!(stack.stop("audit"));
    let jetstream = stack.jetstream().await;
    let events = jetstream.get_stream(names::EVENTS).await.unwrap();
    let new = events.cached_info().config.clone();
    // As the release before made them.
    for consumer in Consumer::ALL {
        let found = events.get_consumer::<pull::Config>(consumer.name()).await.unwrap();
        let mut config = found.cached_info().config.clone();
        config.filter_subjects.retain(|filter| !filter.starts_with("redrive."));
        if let [one] = &config.filter_subjects[..] {
            (config.filter_subject, config.filter_subjects) = (one.clone(), Vec::new());
        }
        events.update_consumer(pull::Config::try_from_consumer_config(config).unwrap()).await.unwrap();
    }
    let old = stream::Config { subjects: vec!["evt.>".into(), "fence.*".into()], ..new.clone() };
    jetstream.update_stream(&old).await.unwrap();

    assert_eq!(blocking(|| stack.provision()).widened, 1 + Consumer::ALL.len());
    assert_eq!(blocking(|| stack.provision()).widened, 0);
    let now = jetstream.get_stream(names::EVENTS).await.unwrap().cached_info().config.clone();
    assert_eq!(stream::Config { metadata: new.metadata.clone(), ..now }, new);
    stack.start_again("audit", &[]);
    tenant(&stack).await;
    audited(&stack).await;

    // Where anything else differs, somebody has meant something, and nothing is widened.
    let config = stack.config();
    let differs = Stack::builder().gateways(0).workers(0).start().await;
    let jetstream = differs.jetstream().await;
    jetstream.delete_stream(names::EVENTS).await.unwrap();
    jetstream.create_stream(&stream::Config { max_age: Duration::from_secs(3_600), ..old.clone() }).await.unwrap();
    let config = runtime::Config { nats_url: differs.config().nats_url, ..config };
    let refused = blocking(|| provision::run(&config)).unwrap_err();
    assert!(format!("{refused:#}").contains("max_age should be"), "{refused:#}");
    assert_eq!(jetstream.get_stream(names::EVENTS).await.unwrap().cached_info().config.subjects, old.subjects);
}
