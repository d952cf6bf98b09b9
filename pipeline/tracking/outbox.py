"""What is to be logged, on disk first: a stage's events outlast a dead server and a killed process.

An entry is a folder `mlruns/outbox/TIME-STAGE-ID` of the main repository: `events.jsonl`, one event a line, in order;
`files/`, copies of what is to be uploaded; `progress.json`, how much of it which store has. The stage that writes an
entry holds its lock. An entry that can be locked is therefore finished, or its stage is dead.
"""

import json
import os
import shutil
import time
import uuid
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from filelock import FileLock, Timeout

from pipeline.files import main_repository, write_json

Event = dict[str, Any]


class Progress(NamedTuple):
    """How many of an entry's events the store `uri` has, and the run that they went to."""

    uri: str = ""
    delivered: int = 0
    run_id: str = ""


class Entry:
    """The events of one stage's execution."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.lock = FileLock(folder / "lock")

    @classmethod
    def begin(cls, stage: str) -> "Entry":
        """A new entry, locked by this process."""
        entry = cls(folder() / f"{time.time_ns()}-{stage}-{uuid.uuid4().hex[:8]}")
        entry.folder.mkdir(parents=True)
        entry.lock.acquire()
        return entry

    def append(self, operation: str, **details: Any) -> None:
        """Add an event, durably, with the time in milliseconds."""
        event = {"do": operation, "time": int(time.time() * 1000), **details}
        with (self.folder / "events.jsonl").open("a", encoding="utf-8") as file:
            file.write(json.dumps(event) + "\n")
            file.flush()
            os.fsync(file.fileno())

    def keep(self, paths: Sequence[Path]) -> str:
        """Copy files, and the files in folders, into the entry; the name of the folder that they are in."""
        name = f"files/{uuid.uuid4().hex[:8]}"
        target = self.folder / name
        target.mkdir(parents=True)
        for path in paths:
            for file in sorted(path.iterdir()) if path.is_dir() else [path]:
                shutil.copyfile(file, target / file.name)
        return name

    def events(self) -> list[Event]:
        """All events; a last line that was torn by a crash or a full disk is no event."""
        try:
            lines = (self.folder / "events.jsonl").read_text(encoding="utf-8").split("\n")
        except FileNotFoundError:
            return []
        return [json.loads(line) for line in lines[:-1]]

    @property
    def progress(self) -> Progress:
        try:
            return Progress(**json.loads((self.folder / "progress.json").read_text(encoding="utf-8")))
        except FileNotFoundError:
            return Progress()

    @progress.setter
    def progress(self, now: Progress) -> None:
        write_json(self.folder / "progress.json", now._asdict())

    def close(self, *, delivered: bool) -> None:
        """Let go of the entry, and of its files where the store has them."""
        if delivered:
            shutil.rmtree(self.folder)
        self.lock.release()


def folder() -> Path:
    return main_repository() / "mlruns" / "outbox"


def pending() -> Iterator[Entry]:
    """Entries that no living stage is writing, oldest first; locked while they are in the caller's hand."""
    for path in sorted(folder().glob("*-*-*")):
        entry = Entry(path)
        try:
            entry.lock.acquire(blocking=False)
        except (Timeout, OSError):  # written by a living stage; or delivered and gone a moment ago
            continue
        try:
            yield entry
        finally:
            entry.lock.release()


def flat(nested: Mapping[str, Any]) -> dict[str, float]:
    """{"test": {"elbo": 1}} as {"test.elbo": 1}: the names that `dvc exp show` has."""
    values: dict[str, float] = {}
    for name, value in nested.items():
        if isinstance(value, list):  # words about the numbers
            continue
        if isinstance(value, Mapping):
            values |= {f"{name}.{key}": number for key, number in flat(value).items()}
        else:
            values[name] = float(value)
    return values
