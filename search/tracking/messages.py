"""What the search and its tracking process say to each other, and how it travels over a pipe.

Plain values, pickled with their length in front: both ends are this program on this machine. Imports no MLflow, so
that the search can use it at no cost. `tracking` is the search's end, `process` the other.
"""

from __future__ import annotations

import pickle
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import BinaryIO
from urllib.parse import unquote, urlsplit

from search.printable import mask_assignments

_LENGTH_BYTES = 8


@dataclass(frozen=True)
class TrackedData:
    """The data set that a study is about."""

    name: str
    digest: str
    source: str
    """Where it is from, in words."""


@dataclass(frozen=True)
class TrackedStudy:
    """What the study's own run in MLflow shows from its first moment on."""

    name: str
    spec_json: str
    description: str
    tags: Mapping[str, str] = field(default_factory=dict)
    params: Mapping[str, str] = field(default_factory=dict)
    identity: str = ""
    """Tells this study from others of its name: two people's on one server, or one that was deleted and begun anew.
    Without it, the name decides."""
    started: datetime | None = None
    """When its first search began; None for now."""
    data: TrackedData | None = None

    @property
    def key(self) -> str:
        """What this study's runs are found by; MLflow's searches know no way to write a quotation mark."""
        return study_key(self.identity or self.name)


def study_key(identity: str) -> str:
    """Return `identity` as it can be searched for in MLflow."""
    return re.sub(r"['\"`]", "_", identity)


@dataclass(frozen=True)
class Opening:
    """First message to the process."""

    uri: str
    artifact_root: Path | None
    study: TrackedStudy
    started: datetime


@dataclass(frozen=True)
class Findings:
    """What there is to tell of a study at the end of a search."""

    headline: str = ""
    """What the run's name says beside the study's."""
    description: str = ""
    """In Markdown."""
    tags: Mapping[str, str] = field(default_factory=dict)
    metrics: Mapping[str, float] = field(default_factory=dict)
    artifacts: Mapping[str, bytes | Path] = field(default_factory=dict)
    """Content or file, by name; a `/` in a name makes a folder."""
    compared: Sequence[int] = ()
    """The trials to look at side by side."""
    confirmed: Mapping[int, Confirmed] = field(default_factory=dict)
    """By trial. All others are not, or no longer."""


@dataclass(frozen=True)
class Confirmed:
    """A trial whose configuration was trained with several seeds."""

    role: str
    """What it was confirmed as."""
    metrics: Mapping[str, float]
    """Means over seeds."""


@dataclass(frozen=True)
class LookAgain:
    """To the process: others have written trials of this study, so see which MLflow holds before the next one."""


@dataclass(frozen=True)
class Closing:
    """Last message to the process: write what is left, complete the study's run, end."""

    interrupted: bool
    ended: datetime
    findings: Findings | None = None
    """None when the search has died without a word."""
    to_be_continued: bool = False
    """Whether others go on with the study, and its run stays as it is."""


@dataclass(frozen=True)
class Written:
    """From the process: MLflow holds this trial, complete."""

    number: int
    new: bool = True
    """Whether it was written now; False when it was there."""


@dataclass(frozen=True)
class Lost:
    """From the process: MLflow had taken these trials, and does not hold them any more."""

    numbers: frozenset[int]


@dataclass(frozen=True)
class Alive:
    """From the process: something that takes long has got one step further."""


@dataclass(frozen=True)
class Notice:
    """From the process: one line for the user."""

    text: str


@dataclass(frozen=True)
class Ended:
    """Last message from the process, with what could not be done."""

    problem: str | None


def send(channel: BinaryIO, message: object) -> None:
    """Write one message. Raises OSError when the other end is gone."""
    body = pickle.dumps(message)
    channel.write(len(body).to_bytes(_LENGTH_BYTES, "little") + body)
    channel.flush()


def receive(channel: BinaryIO) -> Iterator[object]:
    """Yield messages until the other end closes the channel or dies, be it in the middle of a message."""
    while len(head := channel.read(_LENGTH_BYTES)) == _LENGTH_BYTES:
        length = int.from_bytes(head, "little")
        body = channel.read(length)
        if len(body) < length:
            return
        yield pickle.loads(body)


def is_server(tracking_uri: str) -> bool:
    """Return whether MLflow is at work there already, and shows its runs itself."""
    return tracking_uri.startswith(("http://", "https://"))


def without_passwords(text: str, uri: str) -> str:
    """Return `text` with the credentials of `uri`, and whatever else looks like some, blotted out."""
    password = _password(uri)
    for secret in {password, unquote(password)} - {""}:
        text = text.replace(f":{secret}@", ":***@")
    # Greedy up to the last @ of the word: a password may hold an @ or a slash of its own.
    text = re.sub(r"://\S*@", "://***@", text)
    return mask_assignments(text)


def _password(uri: str) -> str:
    try:
        return urlsplit(uri).password or ""
    except ValueError:  # not a URI at all, for instance an unclosed [
        return ""
