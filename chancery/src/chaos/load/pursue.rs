//! One wish, asked for until its end is known.

use std::time::{Duration, Instant};

use hyper::Method;
use serde_json::Value;

use super::client::{Client, Said, Try};
use crate::chaos::history::{End, History, OpId, Request};

/// The pause before the second try, and the longest before a later one.
const PAUSE: (Duration, Duration) = (Duration::from_millis(100), Duration::from_secs(2));
/// Every so many looks at an undecided command, the request itself is sent again under its key: clients do both.
const AGAIN: u32 = 6;

/// A wish and how to ask for it.
#[derive(Debug, Clone)]
pub(super) struct Wish {
    pub(super) request: Request,
    /// The token of who asks; none for who holds a link.
    pub(super) token: Option<String>,
    /// What is sent.
    pub(super) body: Option<Value>,
    /// The token with which the command's outcome may be read.
    pub(super) reader: String,
}

/// How it ended, and the last answer.
#[derive(Debug)]
pub(super) struct Ended {
    pub(super) end: End,
    pub(super) said: Said,
}

/// What to do after a try.
#[derive(Debug, PartialEq)]
enum Next {
    Over(End),
    /// Ask again under the same key.
    Repeat,
    /// Look at the command.
    Look,
}

fn next(said: &Said, keyed: bool, look: bool) -> Next {
    let answer = &said.answer;
    let code = || answer.code.clone().unwrap_or_else(|| format!("status_{}", answer.status.unwrap_or_default()));
    let named = answer.command.is_some();
    match (answer.status, answer.decided.as_deref()) {
        (Some(200), Some("succeeded")) if look => Next::Over(End::Succeeded),
        (Some(200), Some("refused")) if look => Next::Over(End::Refused { code: code() }),
        (Some(200), Some("failed")) if look => Next::Over(End::Failed { code: code() }),
        _ if look => Next::Look,
        (Some(200 | 201), _) if named => Next::Over(End::Succeeded),
        (Some(202), _) if named => Next::Look,
        // Not stored, surely: whoever has no key may ask again, too, and should it not be true there are two effects.
        (Some(429), _) => Next::Repeat,
        (Some(503), _) if matches!(answer.code.as_deref(), Some("not_accepted" | "overloaded" | "unavailable")) => Next::Repeat,
        (Some(503), _) if !keyed && named => Next::Look,
        (None | Some(408 | 425 | 500 | 502 | 503 | 504), _) if keyed && answer.code.as_deref() != Some("failed") => Next::Repeat,
        (None | Some(408 | 425 | 502 | 503 | 504), _) => Next::Over(End::Unknown),
        (Some(500), _) if answer.code.as_deref() != Some("failed") => Next::Over(End::Unknown),
        (Some(400..=499), _) => Next::Over(End::Refused { code: code() }),
        _ => Next::Over(End::Failed { code: code() }),
    }
}

/// Sends a wish until its end is known, or the client's patience is over. Everything is recorded under `op`.
pub(super) async fn pursue(client: &Client, history: &History, op: OpId, wish: &Wish, patience: Duration) -> Ended {
    let begin = Instant::now();
    let method = wish.request.method.parse().unwrap_or(Method::POST);
    let (key, path) = (wish.request.key.as_deref(), wish.request.path.as_str());
    let first = Try { method, path, token: wish.token.as_deref(), key, if_match: wish.request.if_match, body: wish.body.as_ref() };
    let mut command: Option<String> = None;
    let mut pause = PAUSE.0;
    let mut looks = 0;
    loop {
        let look = match &command {
            Some(_) if key.is_some() && looks % AGAIN == AGAIN - 1 => None,
            Some(path) => Some(path),
            None => None,
        };
        looks += u32::from(command.is_some());
        let mut said = match look {
            Some(path) => client.send(&Try::get(path, &wish.reader)).await,
            None => client.send(&first).await,
        };
        // A look at another's command would be a defect of ours; it names none.
        let looked = look.is_some();
        if command.is_none() {
            command = said.answer.command.map(|id| format!("/v1/commands/cmd_{id}"));
        }
        history.answer(op, said.answer.clone());
        let end = match next(&said, key.is_some(), looked) {
            Next::Over(end) => end,
            Next::Repeat | Next::Look if begin.elapsed() < patience => {
                tokio::time::sleep(pause.mul_f64(rand::random_range(0.5..=1.0))).await;
                pause = (pause * 2).min(PAUSE.1);
                continue;
            }
            Next::Repeat | Next::Look => End::Unknown,
        };
        history.end(op, end.clone());
        if matches!(end, End::Unknown) {
            said.body = Value::Null;
        }
        return Ended { end, said };
    }
}

#[cfg(test)]
mod tests {
    use uuid::Uuid;

    use super::*;
    use crate::chaos::history::Answer;

    fn said(status: Option<u16>, code: Option<&str>, decided: Option<&str>) -> Said {
        let answer = Answer {
            status,
            code: code.map(str::to_owned),
            decided: decided.map(str::to_owned),
            command: Some(Uuid::from_u128(1)),
            ..Answer::default()
        };
        Said { answer, ..Said::default() }
    }

    #[test]
    fn what_may_not_have_been_accepted_is_asked_again_only_under_a_key() {
        for status in [None, Some(408), Some(429), Some(502), Some(503)] {
            assert_eq!(next(&said(status, None, None), true, false), Next::Repeat, "{status:?}");
        }
        assert_eq!(next(&Said::default(), false, false), Next::Over(End::Unknown));
        assert_eq!(next(&said(Some(503), Some("outcome_unknown"), None), false, false), Next::Look);
        assert_eq!(next(&said(Some(503), Some("not_accepted"), None), false, false), Next::Repeat);
        assert_eq!(next(&said(Some(500), Some("internal"), None), false, false), Next::Over(End::Unknown));
    }

    #[test]
    fn an_accepted_command_is_followed_to_its_outcome() {
        assert_eq!(next(&said(Some(202), None, Some("pending")), true, false), Next::Look);
        assert_eq!(next(&said(Some(200), None, Some("pending")), true, true), Next::Look);
        assert_eq!(next(&said(Some(503), None, None), true, true), Next::Look);
        assert_eq!(next(&said(Some(200), None, Some("succeeded")), true, true), Next::Over(End::Succeeded));
        let refused = said(Some(200), Some("slug_taken"), Some("refused"));
        assert_eq!(next(&refused, true, true), Next::Over(End::Refused { code: "slug_taken".into() }));
        assert_eq!(next(&said(Some(201), None, None), true, false), Next::Over(End::Succeeded));
        assert_eq!(next(&said(Some(500), Some("internal"), None), true, false), Next::Repeat);
        assert_eq!(next(&said(Some(500), Some("failed"), None), true, false), Next::Over(End::Failed { code: "failed".into() }));
    }
}
