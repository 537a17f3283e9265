//! Whether what clients saw of a register can be explained by one order of its operations that fits their times.
//!
//! A search after Wing and Gong, with the memory that Lowe added: an operation may come next when no other one that is still to come
//! had ended before it began; what was tried is remembered as the set of operations done and the state they led to. What changes nothing (a
//! read, a conflict) is done as soon as it fits, so that only writes are ever tried in several orders. Operations whose end nobody knows may
//! come at any time after their begin, or never.

use std::collections::HashSet;

/// Steps after which a search is given up: a history that needs more is no history of one register.
pub(super) const MAX_STEPS: usize = 3_000_000;

/// What a register holds: a value (by number) and how often it was changed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(super) struct State {
    pub(super) value: u64,
    pub(super) version: u64,
}

/// What a client did and saw.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Action {
    /// It wrote; `expects` is the version that it asked for, `version` the one that it was told, each if any.
    Write { value: u64, expects: Option<u64>, version: Option<u64> },
    /// Its write was refused, because the version was not that one.
    Conflict { expects: u64 },
    /// It read.
    Read { value: u64, version: u64 },
}

/// An operation.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Operation {
    pub(super) begin: u64,
    /// None when nobody knows whether it happened.
    pub(super) end: Option<u64>,
    pub(super) action: Action,
}

/// What came of the search.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Found {
    /// There is such an order.
    Order,
    /// There is none; this operation, by its place in the list, is the first that no order explains.
    None(usize),
    /// It was given up.
    GivenUp,
}

/// What the register holds after an action; none when the action cannot have seen what it saw.
pub(super) fn apply(state: State, action: &Action) -> Option<State> {
    match *action {
        Action::Write { value, expects, version } => {
            let fits = expects.is_none_or(|expected| expected == state.version) && version.is_none_or(|told| told == state.version + 1);
            fits.then_some(State { value, version: state.version + 1 })
        }
        Action::Conflict { expects } => (expects != state.version).then_some(state),
        Action::Read { value, version } => (value == state.value && version == state.version).then_some(state),
    }
}

/// A set of operations.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
struct Done(Vec<u64>);

impl Done {
    fn has(&self, place: usize) -> bool {
        self.0[place / 64] & (1 << (place % 64)) != 0
    }

    fn flip(&mut self, place: usize) {
        self.0[place / 64] ^= 1 << (place % 64);
    }
}

struct Frame {
    state: State,
    /// The operation that led here.
    by: Option<usize>,
    /// Where to go on trying.
    from: usize,
}

/// Searches. `operations` are in the order of their begins.
pub(super) fn search(operations: &[Operation], initial: State) -> Found {
    search_for(MAX_STEPS, operations, initial)
}

fn search_for(steps: usize, operations: &[Operation], initial: State) -> Found {
    let mut done = Done(vec![0; operations.len() / 64 + 1]);
    let mut seen = HashSet::new();
    let mut missing = operations.iter().filter(|operation| operation.end.is_some()).count();
    let mut stack = vec![Frame { state: initial, by: None, from: 0 }];
    let mut deepest = (usize::MAX, 0);
    // Everything before it is done: as long as that is so, nobody looks there again.
    let mut first = 0;
    for _ in 0..steps {
        if missing == 0 {
            return Found::Order;
        }
        let Some(frame) = stack.last_mut() else { return Found::None(deepest.1) };
        while first < operations.len() && done.has(first) {
            first += 1;
        }
        let (mut limit, mut next, mut waiting) = (u64::MAX, None, first);
        for (place, operation) in operations.iter().enumerate().skip(first).filter(|(place, _)| !done.has(*place)) {
            if operation.begin > limit {
                break;
            }
            let wanted = next.is_none() && place >= frame.from;
            if let Some(state) = apply(frame.state, &operation.action).filter(|state| wanted || *state == frame.state) {
                if state == frame.state && frame.from < operations.len() {
                    // It changes nothing, so that nothing is lost by doing it now: nothing else need be tried here.
                    next = Some((place, state));
                    frame.from = operations.len();
                    break;
                }
                next = next.or(Some((place, state)).filter(|_| wanted));
            }
            if let Some(end) = operation.end.filter(|end| *end < limit) {
                (limit, waiting) = (end, place);
            }
        }
        match next {
            Some((place, state)) => {
                frame.from = frame.from.max(place + 1);
                done.flip(place);
                if seen.insert((done.clone(), state)) {
                    missing -= usize::from(operations[place].end.is_some());
                    stack.push(Frame { state, by: Some(place), from: 0 });
                } else {
                    done.flip(place);
                }
            }
            None => {
                if missing < deepest.0 {
                    deepest = (missing, waiting);
                }
                if let Some(by) = stack.pop().and_then(|frame| frame.by) {
                    done.flip(by);
                    first = first.min(by);
                    missing += usize::from(operations[by].end.is_some());
                }
            }
        }
    }
    Found::GivenUp
}

#[cfg(test)]
mod tests {
    use rand::{Rng as _, SeedableRng as _, rngs::StdRng};

    use super::*;

    const START: State = State { value: 0, version: 1 };

    fn write(begin: u64, end: u64, value: u64, version: u64) -> Operation {
        Operation { begin, end: Some(end), action: Action::Write { value, expects: None, version: Some(version) } }
    }

    fn read(begin: u64, end: u64, value: u64, version: u64) -> Operation {
        Operation { begin, end: Some(end), action: Action::Read { value, version } }
    }

    #[test]
    fn what_overlaps_may_come_in_any_order() {
        let operations = [write(0, 10, 1, 3), write(1, 9, 2, 2), read(2, 8, 0, 1), read(11, 12, 1, 3)];
        assert_eq!(search(&operations, START), Found::Order);
    }

    #[test]
    fn a_read_of_what_was_overwritten_before_it_began_is_found() {
        let operations = [write(0, 1, 1, 2), write(2, 3, 2, 3), read(4, 5, 1, 2)];
        assert_eq!(search(&operations, START), Found::None(2));
    }

    #[test]
    fn a_write_that_is_gone_is_found() {
        assert_eq!(search(&[write(0, 1, 1, 2), read(2, 3, 0, 1)], START), Found::None(1));
        assert_eq!(search(&[write(0, 1, 1, 2), write(2, 3, 2, 2)], START), Found::None(1));
    }

    #[test]
    fn a_write_of_unknown_end_explains_a_read_and_need_not_happen() {
        let unknown = Operation { begin: 0, end: None, action: Action::Write { value: 1, expects: None, version: None } };
        assert_eq!(search(&[unknown, read(5, 6, 1, 2)], START), Found::Order);
        assert_eq!(search(&[unknown, read(5, 6, 0, 1)], START), Found::Order);
        assert_eq!(search(&[unknown, read(5, 6, 1, 2), read(7, 8, 0, 1)], START), Found::None(2));
    }

    #[test]
    fn a_conflict_needs_another_version_and_a_conditional_write_the_one_it_asked_for() {
        let conflict = |expects| Operation { begin: 2, end: Some(3), action: Action::Conflict { expects } };
        assert_eq!(search(&[write(0, 1, 1, 2), conflict(1)], START), Found::Order);
        assert_eq!(search(&[write(0, 1, 1, 2), conflict(2)], START), Found::None(1));
        let conditional =
            |expects| Operation { begin: 2, end: Some(3), action: Action::Write { value: 2, expects: Some(expects), version: Some(3) } };
        assert_eq!(search(&[write(0, 1, 1, 2), conditional(2)], START), Found::Order);
        assert_eq!(search(&[write(0, 1, 1, 2), conditional(1)], START), Found::None(1));
    }

    #[test]
    fn a_long_history_with_many_unknown_ends_is_decided_in_time() {
        let mut operations = Vec::new();
        for number in 0..3_000_u64 {
            operations.push(write(number * 10, number * 10 + 25, number + 1, number + 2));
            if number % 40 == 0 {
                let lost = Action::Write { value: 1_000_000 + number, expects: None, version: Some(9_000_000) };
                operations.push(Operation { begin: number * 10 + 1, end: None, action: lost });
            }
        }
        assert_eq!(search(&operations, START), Found::Order);
    }

    #[test]
    fn many_operations_at_once_are_decided_in_time_whether_there_is_an_order_or_not() {
        // As after an outage: everything begins in turn and ends together.
        let history = |stale: bool| {
            let mut operations = Vec::new();
            for number in 0..300_u64 {
                let begin = number * 3;
                operations.push(write(begin, 10_000, number + 1, number + 2));
                operations.push(Operation { begin: begin + 1, end: Some(10_000), action: Action::Conflict { expects: 1 } });
                operations.push(read(begin + 2, 10_000, number, number + 1));
            }
            operations.push(read(10_001, 10_002, if stale { 299 } else { 300 }, if stale { 300 } else { 301 }));
            operations
        };
        assert_eq!(search(&history(false), START), Found::Order);
        assert_eq!(search(&history(true), START), Found::None(900));
    }

    #[test]
    fn a_search_that_takes_too_many_steps_is_given_up() {
        let operations: Vec<Operation> = (0..100).map(|number| write(number * 2, number * 2 + 1, number + 1, number + 2)).collect();
        assert_eq!(search_for(10, &operations, START), Found::GivenUp);
        assert_eq!(search_for(1_000, &operations, START), Found::Order);
    }

    /// Tries every order that fits the times.
    fn brute_force(operations: &[Operation], state: State, done: &mut Vec<usize>) -> bool {
        if operations.iter().enumerate().all(|(place, operation)| operation.end.is_none() || done.contains(&place)) {
            return true;
        }
        (0..operations.len()).filter(|place| !done.contains(place)).collect::<Vec<_>>().into_iter().any(|place| {
            let begin = operations[place].begin;
            let before =
                |(other, operation): (usize, &Operation)| other != place && !done.contains(&other) && operation.end.is_some_and(|end| end < begin);
            if operations.iter().enumerate().any(before) {
                return false;
            }
            let Some(next) = apply(state, &operations[place].action) else { return false };
            done.push(place);
            let found = brute_force(operations, next, done);
            done.pop();
            found
        })
    }

    /// A few operations with values, versions and times by chance from so small a range that about half of the histories are possible.
    fn by_chance(random: &mut StdRng) -> Vec<Operation> {
        let count = random.random_range(1..=6);
        let mut operations: Vec<Operation> = (1..=count)
            .map(|value| {
                let begin = random.random_range(0..8);
                let (number, version) = (random.random_range(0..=2), random.random_range(1..=3));
                let action = match random.random_range(0..6) {
                    0..=1 => Action::Read { value: number, version },
                    2 => Action::Conflict { expects: version },
                    3 => Action::Write { value, expects: Some(version), version: None },
                    _ => Action::Write { value, expects: None, version: random.random_bool(0.6).then_some(version + 1) },
                };
                let unknown = matches!(action, Action::Write { .. }) && random.random_bool(0.25);
                Operation { begin, end: (!unknown).then(|| begin + random.random_range(0..5)), action }
            })
            .collect();
        operations.sort_by_key(|operation| operation.begin);
        operations
    }

    #[test]
    fn the_search_agrees_with_brute_force_on_thousands_of_small_histories() {
        let mut random = StdRng::seed_from_u64(42);
        let mut possible = 0;
        for _ in 0..20_000 {
            let operations = by_chance(&mut random);
            let expected = brute_force(&operations, START, &mut Vec::new());
            possible += usize::from(expected);
            assert_eq!(search(&operations, START) == Found::Order, expected, "{operations:#?}");
        }
        assert!((2_000..18_000).contains(&possible), "{possible} of 20000 were possible: the histories are too easy or too hard");
    }
}
