//! A function that panics: the end of a call, not of the consumer.

use std::{any::Any, panic::AssertUnwindSafe};

use futures_util::FutureExt as _;

use crate::Failure;

/// Characters of a panic's text that are kept.
const TEXT: usize = 500;

/// The result of a call, where a panic is a failure like any other. It is tried again: what panicked may have been an `unwrap` of an answer from outside.
pub(super) async fn caught(call: impl Future<Output = Result<(), Failure>>) -> Result<(), Failure> {
    // What the function keeps to itself between calls may be half changed; its effects are not, as their transaction is gone.
    let ended = AssertUnwindSafe(call).catch_unwind().await;
    ended.unwrap_or_else(|panic| Err(Failure::retry(format!("the function panicked: {}", text(panic.as_ref())))))
}

/// As it can be kept in a row and in a header, whatever it quotes.
fn text(panic: &(dyn Any + Send)) -> String {
    let of_format = panic.downcast_ref::<String>().map(String::as_str);
    let said = of_format.or_else(|| panic.downcast_ref::<&str>().copied()).unwrap_or("without a text");
    said.chars().take(TEXT).map(|c| if c.is_control() { ' ' } else { c }).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_panic_is_a_failure_with_its_text() {
        for (call, said) in [(0, "no number"), (1, "no number 1"), (2, "without a text"), (3, "a b")] {
            let ended = caught(async move {
                match call {
                    0 => panic!("no number"),
                    1 => panic!("no number {call}"),
                    3 => panic!("a\0b"),
                    _ => std::panic::panic_any(call),
                }
            });
            assert_eq!(ended.await, Err(Failure::retry(format!("the function panicked: {said}"))));
        }
    }

    #[tokio::test]
    async fn what_does_not_panic_is_left_as_it_is() {
        assert_eq!(caught(async { Ok(()) }).await, Ok(()));
        assert_eq!(caught(async { Err(Failure::poison("no")) }).await, Err(Failure::poison("no")));
    }
}
