//! Taking messages from a subscription.

use async_nats::jetstream::{Message, consumer::pull};
use futures_util::{FutureExt as _, StreamExt as _};

/// Takes what is there, without waiting. Unconstrained: otherwise the runtime's budget would cut every batch at 128.
pub(super) async fn take_ready(messages: &mut pull::Stream, taken: &mut Vec<Message>, limit: usize) -> Option<String> {
    tokio::task::unconstrained(async {
        while taken.len() < limit {
            match messages.next().now_or_never() {
                None => return None,
                Some(None) => return Some("the subscription ended".to_owned()),
                Some(Some(Ok(message))) => taken.push(message),
                Some(Some(Err(error))) => return Some(error.to_string()),
            }
        }
        None
    })
    .await
}
