//! Waiting for a server: the one-shots of a cluster may run while the servers restart beside them.

use std::time::{Duration, Instant};

/// The pause between two attempts.
const PAUSE: Duration = Duration::from_millis(500);

/// Tries again for as long as `wait` while `passing` says of the error that it may pass by itself; says so once for each new error. Blocking.
///
/// # Errors
/// The last one.
pub fn patiently<T>(wait: Duration, passing: impl Fn(&anyhow::Error) -> bool, mut work: impl FnMut() -> anyhow::Result<T>) -> anyhow::Result<T> {
    let begin = Instant::now();
    let mut said = String::new();
    loop {
        match work() {
            Err(error) if passing(&error) && begin.elapsed() < wait => {
                let text = format!("{error:#}");
                if text != said {
                    eprintln!("waiting: {text}");
                    said = text;
                }
                std::thread::sleep(PAUSE);
            }
            result => return result,
        }
    }
}

#[cfg(test)]
mod tests {
    use anyhow::anyhow;

    use super::*;

    #[test]
    fn what_may_pass_is_waited_for_and_nothing_else() {
        let mut tries = 0;
        let third = || {
            tries += 1;
            if tries < 3 { Err(anyhow!("not yet")) } else { Ok(tries) }
        };
        assert_eq!(patiently(Duration::from_secs(60), |_| true, third).ok(), Some(3));
        let mut tries = 0;
        let never = |_: &anyhow::Error| false;
        let wrong = patiently(Duration::from_secs(60), never, || -> anyhow::Result<()> {
            tries += 1;
            Err(anyhow!("wrong"))
        });
        assert!(wrong.is_err() && tries == 1);
        assert!(patiently(Duration::ZERO, |_| true, || -> anyhow::Result<()> { Err(anyhow!("not yet")) }).is_err());
    }
}
