use super::*;

fn tenant(n: u128) -> TenantId {
    TenantId::new(Uuid::from_u128(n))
}

fn row(partition: u16, place: u64) -> Row {
    let id = Uuid::from_u128(u128::from(partition) << 64 | u128::from(place));
    let at = OffsetDateTime::UNIX_EPOCH + time::Duration::seconds(place as i64);
    Row { partition, place, tenant: tenant(u128::from(partition)), sequence: place, id, digest: 7, at }
}

fn seen(partition: u16, place: u64, stream_sequence: u64) -> Seen {
    let Row { tenant, sequence, id, digest, .. } = row(partition, place);
    Seen { partition, stream_sequence, tenant, sequence, id, digest, late: false }
}

/// Compares the places of one partition with a stream that has these.
fn compared(rows: std::ops::RangeInclusive<u64>, stream: &[Seen]) -> Compared {
    let mut comparison = Comparison::new(1_000);
    rows.for_each(|place| comparison.row(row(1, place)).unwrap());
    stream.iter().for_each(|seen| comparison.seen(*seen).unwrap());
    comparison.finish(None)
}

/// The findings as words and places.
fn found(compared: &Compared) -> Vec<(&'static str, u64)> {
    compared.findings.iter().map(|finding| (finding.kind.name(), finding.place)).collect()
}

#[test]
fn two_equal_orders_have_nothing_to_tell() {
    let mut comparison = Comparison::new(4);
    for place in 1..=1_000 {
        for partition in [3, 5] {
            comparison.row(row(partition, place)).unwrap();
            comparison.seen(seen(partition, place, place * 2 + u64::from(partition == 5))).unwrap();
        }
    }
    assert_eq!(comparison.finish(None), Compared { matched: 2_000, ..Compared::default() });
}

#[test]
fn it_does_not_matter_which_side_is_ahead() {
    let mut comparison = Comparison::new(100);
    for place in 1..=50 {
        comparison.seen(seen(1, place, place)).unwrap();
    }
    assert_eq!(comparison.ahead(1), (0, true));
    for place in 1..=60 {
        comparison.row(row(1, place)).unwrap();
    }
    assert_eq!(comparison.ahead(1), (10, false));
    for place in 51..=60 {
        comparison.seen(seen(1, place, place)).unwrap();
    }
    assert_eq!(comparison.finish(None), Compared { matched: 60, ..Compared::default() });
}

#[test]
fn holes_are_missing_at_the_beginning_in_the_middle_and_at_the_end() {
    let compared = compared(1..=9, &[seen(1, 2, 12), seen(1, 3, 13), seen(1, 6, 16), seen(1, 7, 17), seen(1, 8, 18)]);
    assert_eq!(found(&compared), [("missing", 1), ("missing", 4), ("missing", 5), ("missing", 9)]);
    assert_eq!(compared.matched, 5);
}

#[test]
fn what_a_repair_published_behind_its_successors_is_in_order() {
    let late = Seen { late: true, ..seen(1, 2, 30) };
    assert_eq!(found(&compared(1..=4, &[seen(1, 1, 10), seen(1, 3, 11), seen(1, 4, 12), late])), []);
    // The same without the header is not.
    let bare = Seen { late: false, ..late };
    assert_eq!(found(&compared(1..=4, &[seen(1, 1, 10), seen(1, 3, 11), seen(1, 4, 12), bare])), [("out_of_order", 2)]);
}

#[test]
fn a_swap_is_out_of_order_whichever_side_is_ahead() {
    let swapped = [seen(1, 1, 10), seen(1, 3, 11), seen(1, 2, 12), seen(1, 4, 13)];
    assert_eq!(found(&compared(1..=4, &swapped)), [("out_of_order", 2)]);
    let mut comparison = Comparison::new(100);
    swapped.iter().for_each(|seen| comparison.seen(*seen).unwrap());
    (1..=4).for_each(|place| comparison.row(row(1, place)).unwrap());
    assert_eq!(found(&comparison.finish(None)), [("out_of_order", 3)]);
}

#[test]
fn another_body_sequence_or_tenant_differs() {
    let stream =
        [Seen { digest: 8, ..seen(1, 1, 10) }, Seen { sequence: 9, ..seen(1, 2, 11) }, Seen { tenant: tenant(99), ..seen(1, 3, 12) }, seen(1, 4, 13)];
    assert_eq!(found(&compared(1..=4, &stream)), [("differs", 1), ("differs", 2), ("differs", 3)]);
}

#[test]
fn what_no_row_explains_is_left_to_the_caller_and_a_repeat_of_it_is_told() {
    let compared = compared(1..=2, &[seen(1, 1, 10), seen(1, 7, 11), seen(1, 2, 12), seen(1, 1, 13), seen(1, 7, 14)]);
    assert_eq!(found(&compared), [("repeated", 0)]);
    assert_eq!(compared.unexplained.iter().map(|seen| seen.stream_sequence).collect::<Vec<_>>(), [13, 14]);
}

#[test]
fn what_the_stream_has_forgotten_by_age_is_not_missing() {
    let mut comparison = Comparison::new(100);
    (1..=9).for_each(|place| comparison.row(row(1, place)).unwrap());
    (1..=3).for_each(|place| comparison.row(row(2, place)).unwrap());
    for place in [5, 6, 8] {
        comparison.seen(seen(1, place, place)).unwrap();
    }
    let since = OffsetDateTime::UNIX_EPOCH + time::Duration::seconds(4);
    let compared = comparison.finish(Some(since));
    // Places 1 to 3 of both are older; 4 is not, 7 stands behind what is there, 9 is new.
    assert_eq!((compared.forgotten, found(&compared)), (6, vec![("missing", 4), ("missing", 7), ("missing", 9)]));
}

#[test]
fn more_than_can_be_held_is_said_and_not_held() {
    let mut comparison = Comparison::new(10);
    let ends = (1..=20).find_map(|place| comparison.row(row(1, place)).err());
    assert_eq!(ends, Some(TooMuch(10)));
    let mut comparison = Comparison::new(10);
    let ends = (1..=20).find_map(|place| comparison.seen(seen(1, place, place)).err());
    assert_eq!(ends, Some(TooMuch(10)));
}
