"""A consumer of Chancery's events: what a team in another language needs, complete.

    python consumer.py --url nats://sample-team:PASSWORD@127.0.0.1:4222 --database invitations.db

It follows the durable `sample-team` of the stream EVENTS. Every event has its effect once and, within its aggregate, in order, however often
this process is killed. See README.md beside it, and docs/consumers.md for the rules it keeps.
"""

from __future__ import annotations

import argparse
import asyncio
import fcntl
import json
import signal
import sys
import time
from contextlib import asynccontextmanager
from typing import AsyncIterator, Iterable, Optional

import nats
from nats.aio.msg import Msg
from nats.errors import ConnectionReconnectingError
from nats.js.errors import APIError, NotFoundError

from effects import Effects, Event, Poison

# The client raises this one and a class of its own, which is one of it.
Timeout = asyncio.TimeoutError

STREAM = "EVENTS"
BATCH = 200  # events in one transaction at most
TRIES = 5  # how often an event is tried before it becomes a dead letter
PAUSES = (0.2, 1.0, 5.0, 15.0)  # seconds before the second, third … try


class Refused(Exception):
    """NATS does not let this user do something. The server says so beside the request, which would only time out."""


class Consumer:
    def __init__(self, url: str, durable: str, effects: Effects, work_seconds: float) -> None:
        self.url, self.durable, self.effects, self.work_seconds = url, durable, effects, work_seconds
        self.stopping = asyncio.Event()
        self.refusal: Optional[str] = None
        self.ack_wait = 30.0
        # The consumer's own number of the delivery that comes next; none when deliveries may have been lost.
        self.next_delivery: Optional[int] = None
        self.losses = 0  # how often the connection broke
        self.held: dict[int, Msg] = {}  # what waits for its predecessors, by its place in the stream

    async def run(self) -> None:
        self.connection = await nats.connect(
            self.url.split(","),  # a cluster has several
            name=self.durable,
            # A user may listen below its own prefix alone; with the client's default, no answer would ever come.
            inbox_prefix=f"_INBOX_{self.durable}".encode(),
            max_reconnect_attempts=-1,
            error_cb=self._on_error,
            disconnected_cb=self._on_disconnect,
        )
        try:
            self.stream = self.connection.jetstream(timeout=5)
            info = await self._consumer_info()
            self.ack_wait = float(info.config.ack_wait or 30.0)
            self.subscription = await self.stream.pull_subscribe_bind(consumer=self.durable, stream=STREAM)
            say(f"following {self.durable}: {info.num_pending} to come, {info.num_ack_pending} not acknowledged")
            while not self.stopping.is_set():
                try:
                    if self.next_delivery is None:
                        await self._catch_up()
                    else:
                        await self._work(await self._fetch())
                except (Timeout, APIError, ConnectionReconnectingError) as error:
                    # NATS is away, or has no leader: what is not acknowledged comes again.
                    say(f"trying again: {error!r}")
                    self.next_delivery = None
                    await asyncio.sleep(1.0)
            say("stopped: everything that was begun is done")
        finally:
            # Nothing is on its way: every batch ends with a flush.
            await self.connection.close()

    # ---- which events come next

    async def _fetch(self) -> list[Msg]:
        """The next events, in their order; none when a delivery was lost, or nothing is there."""
        try:
            messages = await self.subscription.fetch(BATCH, timeout=1.0)
        except Timeout:
            self._check_refusal()
            return []
        for message in messages:
            number = message.metadata.sequence.consumer
            if self.next_delivery is not None and number != self.next_delivery:
                # One was delivered that never arrived. It comes again after the ack wait, and its successors must wait for it.
                say(f"delivery {self.next_delivery} is missing, {number} came: waiting for it")
                self.next_delivery = None
                self.held.update({message.metadata.sequence.stream: message for message in messages})
                return []
            self.next_delivery = number + 1
        return messages

    async def _catch_up(self) -> None:
        """Begins after a start, or after deliveries were lost: what was delivered and not acknowledged (to a predecessor that was killed, or
        over a broken connection) comes again after the ack wait. Newer events are held until it is here; then all of it, in order."""
        held, self.held, losses = self.held, {}, self.losses
        async with self._in_progress(held.values()):
            while not self.stopping.is_set():
                info = await self._consumer_info()
                if info.num_ack_pending <= len(held):
                    break
                try:
                    messages = await self.subscription.fetch(BATCH, timeout=1.0)
                except Timeout:
                    continue
                for message in messages:
                    held[message.metadata.sequence.stream] = message
                await self._extend(held.values())
            if not self.stopping.is_set():
                self.next_delivery = info.delivered.consumer_seq + 1 if losses == self.losses else None
                await self._work([held[sequence] for sequence in sorted(held)])

    async def _consumer_info(self):  # type: ignore[no-untyped-def]
        try:
            return await self.stream.consumer_info(STREAM, self.durable)
        except NotFoundError:
            raise SystemExit(f"there is no durable {self.durable}: declare it in a manifest, `chancery provision` makes it") from None
        except (Timeout, APIError):
            self._check_refusal()
            raise

    # ---- what is done with them

    async def _work(self, messages: list[Msg]) -> None:
        """One batch: effects first, then dead letters, then acknowledgements. Whoever dies in between does it again, and nothing is doubled."""
        letters: list[tuple[Msg, str, str, int]] = []
        done: list[Msg] = []
        async with self._in_progress(messages):
            for message in messages:
                if self.stopping.is_set():
                    break
                letter = await self._handle(message)
                if letter is not None:
                    letters.append((message, *letter))
                done.append(message)
            await asyncio.to_thread(self.effects.commit)
            for letter in letters:
                await self._put_aside(*letter)
            for message in done:
                await message.ack()
        await self.connection.flush()

    async def _handle(self, message: Msg) -> Optional[tuple[str, str, int]]:
        """Does what one event means. What can never be done, or fails again and again, is told as a dead letter: reason, words, tries."""
        for tries in range(1, TRIES + 1):
            try:
                event = decode(message, self.durable)
                # In a thread, so that the loop goes on telling the server that we are at it.
                if self.work_seconds:
                    await asyncio.to_thread(time.sleep, self.work_seconds)
                if not await asyncio.to_thread(self.effects.apply, event):
                    say(f"{event.id} has been handled before")
                return None
            except Poison as poison:
                return poison.reason, str(poison), max(tries, message.metadata.num_delivered)
            except Exception as error:  # whatever may pass: a database that is locked, a service that is away
                # Its successors wait: that is what order costs. What was done before it is kept meanwhile.
                say(f"try {tries} failed: {error!r}")
                if tries == TRIES:
                    return "exhausted", f"{type(error).__name__} after {tries} tries", tries
                await asyncio.to_thread(self.effects.commit)
                await asyncio.sleep(PAUSES[min(tries, len(PAUSES)) - 1])
        raise AssertionError("the last try returns")

    async def _put_aside(self, message: Msg, reason: str, error: str, tries: int) -> None:
        """Stores a dead letter. It must be stored before the event is acknowledged: else a crash in between loses the event."""
        sequence = message.metadata.sequence.stream
        # The event's headers, but not the server's own: an expectation or a batch id would be applied again.
        headers = {name: value for name, value in (message.headers or {}).items() if not name.lower().startswith("nats-")}
        headers |= {
            "Nats-Msg-Id": f"{self.durable}:{STREAM}:{sequence}",  # twice is once, within the server's window
            "Chancery-Consumer": self.durable,
            "Chancery-Reason": reason,
            "Chancery-Error": "".join(c for c in error if c.isprintable())[:500],
            "Chancery-Deliveries": str(tries),
            "Chancery-Origin-Stream": STREAM,
            "Chancery-Origin-Sequence": str(sequence),
        }
        topic_and_event = ".".join(message.subject.split(".")[-2:])
        say(f"dead letter: {message.subject} at {sequence}: {reason}: {error}")
        try:
            await self.stream.publish(f"dlq.{self.durable}.{topic_and_event}", message.data, headers=headers)
        except Timeout:
            self._check_refusal()
            raise  # not known to be stored, so not acknowledged: it comes again

    # ---- long work

    @asynccontextmanager
    async def _in_progress(self, messages: Iterable[Msg]) -> AsyncIterator[None]:
        """Tells the server again and again that we are at it, so that it delivers nothing of this to anybody else."""

        async def tell() -> None:
            while True:
                await asyncio.sleep(self.ack_wait / 3)
                await self._extend(messages)

        telling = asyncio.create_task(tell())
        try:
            yield
        finally:
            telling.cancel()

    async def _extend(self, messages: Iterable[Msg]) -> None:
        for message in list(messages):
            await message.in_progress()

    # ---- trouble

    async def _on_error(self, error: Exception) -> None:
        if "permissions violation" in str(error).lower():
            self.refusal = str(error)
        say(f"nats: {error}")

    async def _on_disconnect(self) -> None:
        # Deliveries that were on their way are lost, and come again.
        self.losses += 1
        self.next_delivery = None

    def _check_refusal(self) -> None:
        if self.refusal:
            raise Refused(f"user {self.durable} may not do this: {self.refusal}")


def decode(message: Msg, durable: str) -> Event:
    """The event in a message. What permissions were checked against is the subject, so the body must say the same."""
    try:
        event = Event.of(json.loads(message.data))
    except ValueError as error:
        raise Poison("undecodable", "the body is no JSON") from error
    # It comes on our own subject when an operator lets a dead letter of ours be tried again.
    if message.subject not in (f"evt.{event.tenant_id}.{event.type}", f"redrive.{durable}.{event.tenant_id}.{event.type}"):
        raise Poison("mismatch", "the subject is not the event's own")
    return event


def say(text: str) -> None:
    print(text, flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description="Follows invitations into a SQLite database.")
    parser.add_argument("--url", required=True, help="nats://sample-team:PASSWORD@HOST:PORT")
    parser.add_argument("--durable", default="sample-team", help="the durable, which is also the user's name")
    parser.add_argument("--database", required=True, help="the SQLite file")
    parser.add_argument("--work-seconds", type=float, default=0.0, help="pretend that each event takes so long")
    arguments = parser.parse_args()

    # One owner: order per aggregate cannot be kept by two at once. The lock ends with the process, however it ends.
    lock = open(f"{arguments.database}.lock", "w")
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        raise SystemExit("another consumer works on this database") from None

    async def run() -> None:
        effects = Effects(arguments.database)
        consumer = Consumer(arguments.url, arguments.durable, effects, arguments.work_seconds)
        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, consumer.stopping.set)
        try:
            await consumer.run()
        finally:
            effects.close()

    try:
        asyncio.run(run())
    except Refused as refused:
        sys.exit(str(refused))


if __name__ == "__main__":
    main()
