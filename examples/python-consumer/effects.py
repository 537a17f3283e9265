"""What this consumer does with events. Replace this file with your own; `consumer.py` can stay as it is.

It keeps a table of invitations and how each of them ended, in SQLite. The one rule: the effect of an event and the event's id are written in
ONE transaction. The server delivers every event at least once, and sometimes twice; the id, which is the same for ever, tells which.
"""

from __future__ import annotations

import sqlite3
from dataclasses import dataclass
from typing import Any, Mapping

SCHEMA = """
CREATE TABLE IF NOT EXISTS handled (event_id TEXT PRIMARY KEY) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS invitations (
    tenant_id TEXT NOT NULL, invitation_id TEXT NOT NULL, state TEXT NOT NULL, changes INTEGER NOT NULL,
    PRIMARY KEY (tenant_id, invitation_id)
);
-- Everything that happened, in the order in which it took effect here.
CREATE TABLE IF NOT EXISTS story (
    n INTEGER PRIMARY KEY AUTOINCREMENT, event_id TEXT NOT NULL, type TEXT NOT NULL,
    tenant_id TEXT NOT NULL, invitation_id TEXT NOT NULL, version INTEGER NOT NULL, sequence INTEGER NOT NULL
);
"""

# What an event makes of an invitation. Events that are not here change nothing about where it stands.
STATES = {
    "invitation.created": "created",
    "invitation.sent": "sent",
    "invitation.accepted": "accepted",
    "invitation.declined": "declined",
    "invitation.removed": "removed",
    "invitation.expired": "expired",
}


class Poison(Exception):
    """This event can never be handled: it becomes a dead letter. Say why in words that name no person."""

    def __init__(self, reason: str, error: str) -> None:
        super().__init__(error)
        self.reason = reason


@dataclass(frozen=True)
class Event:
    """The fields of the envelope that are used here. Unknown ones are ignored: they may be added at any time."""

    id: str
    type: str
    tenant_id: str
    aggregate: str
    aggregate_id: str
    aggregate_version: int
    sequence: int
    data: Mapping[str, Any]

    @staticmethod
    def of(envelope: Any) -> "Event":
        try:
            event = Event(
                envelope["id"], envelope["type"], envelope["tenantId"], envelope["aggregate"], envelope["aggregateId"],
                envelope["aggregateVersion"], envelope["sequence"], envelope["data"],
            )
        except (KeyError, TypeError) as error:
            raise Poison("undecodable", f"the body is no event: {type(error).__name__}") from error
        texts = (event.id, event.type, event.tenant_id, event.aggregate, event.aggregate_id)
        numbers = (event.aggregate_version, event.sequence)
        if not all(isinstance(text, str) for text in texts) or not all(isinstance(number, int) for number in numbers):
            raise Poison("undecodable", "the body is no event: a field has another type")
        return event


class Effects:
    """The database, and one transaction that is open while a batch is worked on."""

    def __init__(self, path: str) -> None:
        # `consumer.py` uses it from one thread at a time.
        self.database = sqlite3.connect(path, isolation_level=None, check_same_thread=False)
        self.database.execute("PRAGMA journal_mode = WAL")
        # What was committed must outlive a power cut: it is acknowledged afterwards, and never comes again.
        self.database.execute("PRAGMA synchronous = FULL")
        self.database.executescript(SCHEMA)

    def apply(self, event: Event) -> bool:
        """Does what the event means; false when that has been done before. The effect lasts when `commit` has returned."""
        if not self.database.in_transaction:
            self.database.execute("BEGIN IMMEDIATE")
        # A failure in the middle takes this event's effect back, and leaves those of the events before it.
        self.database.execute("SAVEPOINT event")
        try:
            is_new = self.database.execute("INSERT OR IGNORE INTO handled VALUES (?)", (event.id,)).rowcount == 1
            if is_new:
                self._effect(event)
            self.database.execute("RELEASE event")
            return is_new
        except BaseException:
            self.database.execute("ROLLBACK TO event")
            self.database.execute("RELEASE event")
            raise

    def commit(self) -> None:
        if self.database.in_transaction:
            self.database.execute("COMMIT")

    def close(self) -> None:
        self.database.close()

    def _effect(self, event: Event) -> None:
        invitation = event.data.get("invitationId") if isinstance(event.data, dict) else None
        if event.aggregate != "invitation" or not isinstance(invitation, str):
            raise Poison("poison", f"{event.type} names no invitation")
        # Not repeatable by itself: only the id above keeps a repeat from counting twice.
        self.database.execute(
            "INSERT INTO invitations VALUES (?, ?, coalesce(?, 'created'), 1)"
            " ON CONFLICT DO UPDATE SET state = coalesce(?, state), changes = changes + 1",
            (event.tenant_id, invitation, STATES.get(event.type), STATES.get(event.type)),
        )
        self.database.execute(
            "INSERT INTO story (event_id, type, tenant_id, invitation_id, version, sequence) VALUES (?, ?, ?, ?, ?, ?)",
            (event.id, event.type, event.tenant_id, invitation, event.aggregate_version, event.sequence),
        )
