//! Waiting between tries: growing, jittered, bounded.

use std::time::Duration;

use rand::Rng;

/// Doubles from a least to a most wait; each wait is drawn from its upper half.
#[derive(Debug)]
pub struct Backoff {
    least: Duration,
    most: Duration,
    next: Duration,
}

impl Backoff {
    /// Starts at the least wait.
    pub const fn new(least: Duration, most: Duration) -> Self {
        Self { least, most, next: least }
    }

    /// Starts over after a success.
    pub fn reset(&mut self) {
        self.next = self.least;
    }

    /// Waits, and doubles the next wait.
    pub async fn wait(&mut self) {
        let wait = self.next.mul_f64(rand::rng().random_range(0.5..=1.0));
        self.next = (self.next * 2).min(self.most);
        tokio::time::sleep(wait).await;
    }
}

/// From the start of one batch to that of the next, after one that took so long: the lane is busy an eighth of the time, and what waits
/// meanwhile goes as one batch. After a pause nothing waits.
pub fn rest(took: Duration, longest: Duration) -> Duration {
    (took * 8).min(longest)
}
