//! The partitions this worker owns: taking, giving up, and picking what is ready from them.

use std::{sync::atomic::Ordering, time::Instant};

use tokio::sync::mpsc;

use super::{
    Worker,
    batch::{Item, Position},
    keeper::Notice,
    metrics::METRICS,
    outbox::Job,
    parse::{Parsed, parse},
    reader::{Read, Reader},
};
use crate::{Stop, store::lease::Partition};

/// How long a worker stays away from a partition with a command it does not know.
const AVOID: std::time::Duration = std::time::Duration::from_secs(30);

/// Commands of each partition that are tried with care after several crashes in a short time.
const CAREFUL: usize = 16;

/// A partition of ours.
#[derive(Debug)]
pub(crate) struct Owned {
    pub(crate) epoch: i64,
    /// The last decided command.
    pub(crate) cursor: u64,
    /// The last event.
    pub(crate) sequence: u64,
    /// Commands still to be tried with care, because a predecessor crashed: together with one of each other partition, and noted before.
    pub(crate) careful: usize,
    /// The command that was tried so when a predecessor crashed: it is tried alone.
    pub(crate) suspect: Option<u64>,
    /// Set when its next command is of a newer version.
    pub(crate) paused: bool,
    /// Set when COMMANDS began a new life and the table does not know yet.
    pub(crate) restart: Option<String>,
    pub(crate) reads: mpsc::Receiver<Read>,
    pub(crate) reader: Stop,
}

impl Drop for Owned {
    fn drop(&mut self) {
        self.reader.cancel();
    }
}

impl Worker {
    pub(crate) async fn notice(&mut self, notice: Notice) {
        match notice {
            Notice::Taken(partitions) => self.take(partitions).await,
            Notice::Standing { owned, share } => self.standing(&owned, share).await,
        }
        self.first.store(self.owned.contains_key(&0), Ordering::Relaxed);
        let count = self.owned.len();
        crate::health::set("partitions", count > 0 || self.share == 0, format!("{count}"));
        METRICS.partitions.set_count(count as u64);
    }

    async fn take(&mut self, partitions: Vec<Partition>) {
        tracing::info!(count = partitions.len(), first = partitions.first().map(|row| row.partition), "partitions taken");
        // What was read while others owned these is not current.
        self.engine.known.forget();
        let taken = partitions.iter().map(|row| (row.partition, row.epoch)).collect();
        for row in partitions {
            if row.crashes > 0 { &METRICS.taken_over } else { &METRICS.taken }.inc();
            let owned = self.start_reading(&row);
            self.owned.insert(row.partition, owned);
        }
        self.tell_lane(Job::Take { partitions: taken }).await;
    }

    fn start_reading(&self, row: &Partition) -> Owned {
        let (out, reads) = mpsc::channel(self.config.reader_buffer);
        let stop = Stop::new();
        let reader = Reader {
            connection: self.connection.clone(),
            context: self.context.clone(),
            partition: row.partition,
            position: row.cursor,
            incarnation: row.commands_incarnation.clone(),
            buffer: self.config.reader_buffer,
            out,
            ready: self.ready.clone(),
            stop: stop.clone(),
        };
        tokio::spawn(reader.run());
        // One crash: the next command might be why. Several in a short time: it is somewhere among the next.
        let careful = match row.crashes {
            0 => 0,
            1 => 1,
            _ => CAREFUL,
        };
        let suspect = row.trying.filter(|sequence| *sequence > row.cursor);
        if row.crashes > 0 {
            tracing::warn!(partition = row.partition, crashes = row.crashes, "the last owner ended without handing over");
        }
        Owned { epoch: row.epoch, cursor: row.cursor, sequence: row.sequence, careful, suspect, paused: false, restart: None, reads, reader: stop }
    }

    /// Compares with what the table says, and gives up what is more than our share.
    async fn standing(&mut self, rows: &[Partition], share: usize) {
        self.share = share;
        let lost: Vec<u16> = self
            .owned
            .iter()
            .filter(|(id, owned)| !rows.iter().any(|row| row.partition == **id && row.epoch == owned.epoch))
            .map(|(id, _)| *id)
            .collect();
        // A partition taken a moment ago is in no older answer: only a different owner or epoch in a later one counts. The keeper sends
        // what it read before it sends what it took, so an owned partition missing here was missing in the table.
        self.drop_lost(&lost).await;
        let handed_over = |row: &Partition| self.handed_over.get(&row.partition).is_some_and(|epoch| *epoch >= row.epoch);
        let unknown: Vec<Partition> = rows.iter().filter(|row| !self.owned.contains_key(&row.partition) && !handed_over(row)).cloned().collect();
        if !unknown.is_empty() {
            // Taken by a statement whose answer was lost.
            self.take(unknown).await;
        }
        let mut surplus: Vec<u16> = self.owned.iter().filter(|(_, owned)| owned.paused).map(|(id, _)| *id).collect();
        for partition in &surplus {
            self.avoided.avoid(*partition, Instant::now() + AVOID);
        }
        if self.owned.len() > share {
            surplus.extend(self.owned.keys().rev().take(self.owned.len() - share).copied());
            surplus.sort_unstable();
            surplus.dedup();
        }
        if !surplus.is_empty() {
            self.hand_over(&surplus).await;
        }
    }

    /// Gives partitions to whoever wants them: everything committed is published and marked first.
    pub(crate) async fn hand_over(&mut self, partitions: &[u16]) {
        let mut epochs = Vec::new();
        for partition in partitions {
            // Stops its reader; commands read ahead are read again by the successor.
            if let Some(owned) = self.owned.remove(partition) {
                self.handed_over.insert(*partition, owned.epoch);
                epochs.push((*partition, owned.epoch));
            }
        }
        self.flush().await;
        let marks: Vec<_> = epochs.into_iter().map(|(partition, epoch)| (partition, epoch, self.marks.get(partition, epoch))).collect();
        match self.engine.release(&marks).await {
            Ok(count) => {
                METRICS.shed.inc_by(count);
                tracing::info!(count, "partitions handed over");
            }
            Err(error) => tracing::warn!(error, "cannot hand over: the lease runs out by itself"),
        }
        self.engine.known.forget();
        self.tell_lane(Job::Forget(partitions.to_vec())).await;
    }

    /// Forgets partitions that have another owner.
    pub(crate) async fn drop_lost(&mut self, partitions: &[u16]) {
        if partitions.is_empty() {
            return;
        }
        tracing::warn!(count = partitions.len(), "partitions lost to another worker");
        METRICS.lost.inc_by(partitions.len() as u64);
        for partition in partitions {
            self.owned.remove(partition);
        }
        self.engine.known.forget();
        self.tell_lane(Job::Forget(partitions.to_vec())).await;
    }

    pub(crate) async fn tell_lane(&self, job: Job) {
        // The lane ends only with the worker.
        let _ = self.lane.send(job).await;
    }

    /// Where the owned partitions stand.
    pub(crate) fn positions(&self) -> std::collections::BTreeMap<u16, Position> {
        self.owned
            .iter()
            .map(|(id, owned)| {
                let Owned { epoch, cursor, sequence, .. } = *owned;
                (*id, Position { epoch, cursor, sequence, mark: self.marks.get(*id, epoch) })
            })
            .collect()
    }

    /// Takes what is ready, one command of each partition in turn, up to the limits. Never waits.
    pub(crate) fn take_ready(&mut self) -> Vec<Item> {
        let ids: Vec<u16> = self.owned.iter().filter(|(_, owned)| owned.careful == 0 && !owned.paused).map(|(id, _)| *id).collect();
        let mut open = vec![true; ids.len()];
        let mut items = Vec::new();
        let mut bytes = 0;
        self.turn = self.turn.wrapping_add(1);
        while open.contains(&true) {
            for offset in 0..ids.len() {
                let index = (self.turn + offset) % ids.len();
                if !open[index] {
                    continue;
                }
                match self.next_item(ids[index]) {
                    Some(item) => {
                        bytes += item.incoming.payload.len();
                        items.push(item);
                    }
                    None => open[index] = false,
                }
                if items.len() >= self.config.batch_commands || bytes >= self.config.batch_bytes {
                    // What is left stays ready.
                    self.ready.notify_one();
                    return items;
                }
            }
        }
        items
    }

    /// The commands that have to be tried with care next: one that may be why a predecessor crashed, alone; else one of each partition.
    pub(crate) fn take_careful(&mut self) -> Vec<Item> {
        let careful = self.owned.iter().filter(|(_, owned)| owned.careful > 0 && !owned.paused);
        let (suspected, others): (Vec<_>, Vec<_>) = careful.partition(|(_, owned)| owned.suspect.is_some_and(|sequence| sequence > owned.cursor));
        let ids = |some: Vec<(&u16, &Owned)>| some.into_iter().map(|(id, _)| *id).collect::<Vec<u16>>();
        let (suspected, others) = (ids(suspected), ids(others));
        let alone = suspected.into_iter().find_map(|id| self.next_item(id));
        let items: Vec<Item> = match alone {
            Some(item) => vec![item],
            None => others.into_iter().take(self.config.batch_commands).filter_map(|id| self.next_item(id)).collect(),
        };
        for item in &items {
            if let Some(owned) = self.owned.get_mut(&item.partition) {
                owned.careful -= 1;
            }
        }
        METRICS.careful.inc_by(items.len() as u64);
        items
    }

    fn next_item(&mut self, partition: u16) -> Option<Item> {
        let partitions = self.config.partitions;
        let owned = self.owned.get_mut(&partition)?;
        while owned.restart.is_none() {
            match owned.reads.try_recv().ok()? {
                Read::Message(incoming) if incoming.sequence <= owned.cursor => {}
                Read::Message(incoming) => {
                    METRICS.waited(incoming.stored_at);
                    let parsed = parse(&incoming, partition, partitions);
                    if let Parsed::Unknown(command) = &parsed {
                        tracing::error!(partition, command, "a command of a newer version: the partition waits for a newer worker");
                        owned.paused = true;
                        return None;
                    }
                    return Some(Item { partition, incoming, parsed, condemned: None });
                }
                Read::Restart { incarnation } => {
                    // Sequences start again after this: nothing more is taken before the table knows.
                    owned.restart = Some(incarnation);
                    return None;
                }
            }
        }
        None
    }

    /// Starts over where COMMANDS was created anew. Returns whether there was such a partition.
    pub(crate) async fn apply_restarts(&mut self) -> bool {
        let waiting: Vec<u16> = self.owned.iter().filter(|(_, owned)| owned.restart.is_some()).map(|(id, _)| *id).collect();
        for partition in &waiting {
            let Some(owned) = self.owned.get_mut(partition) else { continue };
            let Some(incarnation) = owned.restart.clone() else { continue };
            match self.engine.restart_cursor(*partition, owned.epoch, &incarnation).await {
                Ok(true) => {
                    owned.cursor = 0;
                    owned.restart = None;
                }
                Ok(false) => self.drop_lost(&[*partition]).await,
                Err(error) => {
                    tracing::warn!(error, "cannot note the new life of COMMANDS yet");
                    // Tried again with the next round.
                    tokio::time::sleep(std::time::Duration::from_millis(100)).await;
                    self.ready.notify_one();
                }
            }
        }
        !waiting.is_empty()
    }
}
