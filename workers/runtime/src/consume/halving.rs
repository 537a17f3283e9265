//! Finding the event at fault: a failed slice is halved until it is alone, in order, and its neighbours go through.

use std::ops::Range;

/// What is still to be tried, first things first.
#[derive(Debug)]
pub(crate) struct Halving(Vec<Range<usize>>);

impl Halving {
    /// Everything at once.
    pub(crate) fn new(len: usize) -> Self {
        Self(Vec::from_iter((len > 0).then_some(0..len)))
    }

    /// The next slice to try.
    pub(crate) fn next(&mut self) -> Option<Range<usize>> {
        self.0.pop()
    }

    /// Tries a slice again as it is.
    pub(crate) fn again(&mut self, range: Range<usize>) {
        self.0.push(range);
    }

    /// A slice failed: its halves are next. Returns the place when it was one event only.
    pub(crate) fn failed(&mut self, range: Range<usize>) -> Option<usize> {
        if range.len() <= 1 {
            return Some(range.start);
        }
        let middle = range.start + range.len() / 2;
        self.0.push(middle..range.end);
        self.0.push(range.start..middle);
        None
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Runs to the end with these places at fault; returns the places that went through, those that did not, and the number of calls.
    fn run(len: usize, bad: &[usize]) -> (Vec<usize>, Vec<usize>, usize) {
        let (mut good, mut found, mut calls) = (Vec::new(), Vec::new(), 0);
        let mut halving = Halving::new(len);
        while let Some(range) = halving.next() {
            calls += 1;
            if range.clone().any(|place| bad.contains(&place)) { found.extend(halving.failed(range)) } else { good.extend(range) }
        }
        (good, found, calls)
    }

    #[test]
    fn one_at_fault_is_found_in_few_calls_and_its_neighbours_go_through_in_order() {
        let (good, found, calls) = run(256, &[77]);
        assert_eq!(found, [77]);
        assert_eq!(good, (0..256).filter(|place| *place != 77).collect::<Vec<_>>());
        assert_eq!(calls, 17);
    }

    #[test]
    fn several_at_fault_are_all_found() {
        let (good, found, _) = run(7, &[0, 3, 6]);
        assert_eq!((good, found), (vec![1, 2, 4, 5], vec![0, 3, 6]));
        let (good, found, calls) = run(4, &[0, 1, 2, 3]);
        assert_eq!((good, found, calls), (vec![], vec![0, 1, 2, 3], 7));
    }

    #[test]
    fn nothing_is_nothing() {
        assert_eq!(run(0, &[]), (vec![], vec![], 0));
    }
}
