//! The thread that writes the history to its file.

use std::{
    fs::File,
    io::{BufWriter, Write as _},
    sync::{
        Arc,
        mpsc::{Receiver, SyncSender, sync_channel},
    },
};

use anyhow::{Context as _, anyhow};

use super::Record;

/// Records that may wait for the disk; then whoever adds one waits.
const WAITING: usize = 65_536;

enum Order {
    Write(Arc<Record>),
    Flush(SyncSender<std::io::Result<()>>),
}

/// Writes in the order in which it is told.
#[derive(Debug)]
pub(super) struct Writer {
    orders: SyncSender<Order>,
}

impl Writer {
    pub(super) fn start(file: File) -> anyhow::Result<Self> {
        let (orders, inbox) = sync_channel(WAITING);
        std::thread::Builder::new().name("history".into()).spawn(move || work(file, &inbox)).context("starting the history's thread")?;
        Ok(Self { orders })
    }

    pub(super) fn write(&self, record: Arc<Record>) {
        // A thread that has ended says so when the file is flushed.
        let _ = self.orders.send(Order::Write(record));
    }

    pub(super) fn flush(&self) -> anyhow::Result<()> {
        let (sender, answer) = sync_channel(1);
        self.orders.send(Order::Flush(sender)).map_err(|_| anyhow!("the history's thread has ended"))?;
        answer.recv().context("the history's thread has ended")?.context("writing the history")
    }
}

fn work(file: File, inbox: &Receiver<Order>) {
    let mut file = BufWriter::new(file);
    let mut result = Ok(());
    for order in inbox {
        match order {
            Order::Write(record) if result.is_ok() => {
                result = serde_json::to_writer(&mut file, &*record).map_err(Into::into).and_then(|()| file.write_all(b"\n"));
            }
            Order::Write(_) => {}
            Order::Flush(sender) => {
                let end = std::mem::replace(&mut result, Ok(())).and_then(|()| file.flush());
                let _ = sender.send(end);
            }
        }
    }
}
