"""Errors that a user can cause, each with its exit code. Imports nothing of the program but how to print.

The command line prints the message of a `RegsearchError` without a traceback and leaves with its exit code.
A message says what was wrong (file, key, value) and the way out.
"""

import difflib
import signal
from collections.abc import Iterable

from search.printable import printable, shortened


class RegsearchError(Exception):
    """Base of all errors that the user can fix. Exit code 1 unless a subclass has another."""

    exit_code = 1

    def __str__(self) -> str:
        # It may quote what a file, a database or a server says.
        return printable(shortened(super().__str__()))


class SearchWarning(UserWarning):
    """The user's model or data are likely wrong. The search continues."""


class UsageError(RegsearchError):
    """The command line, or an argument, is wrong: an unknown study, a number out of range."""

    exit_code = 2


class NoStudiesError(UsageError):
    """Nothing is stored yet where studies are looked for."""


class SpecError(RegsearchError):
    """A study file cannot be read, or its content is not a valid study."""


class SpecMismatchError(RegsearchError):
    """The study exists already with another spec."""


class DataError(RegsearchError):
    """Data are missing, truncated, or do not match their checksum."""


class ModelError(RegsearchError):
    """The user's model cannot be trained on these data."""


class DeviceError(RegsearchError):
    """The requested device does not exist."""


class KernelError(RegsearchError):
    """The kernels cannot be compiled on this machine."""


class HomeError(RegsearchError):
    """The home folder cannot be used: it is not writable, or on a network file system."""


class StorageError(RegsearchError):
    """The study's storage is unreachable, damaged, or not Optuna's."""

    is_raw = False
    """Whether the message is the database's own, to which address and way out are still to be added."""
    sqlstate: str | None = None
    """The SQLSTATE of an error of PostgreSQL."""


class StorageUnavailableError(StorageError):
    """The storage does not answer, or has no room, right now: another try may succeed."""

    outage: object = None
    """How long it is worth waiting for; see `study/sqlstates.py`. None is as long as the user allows."""
    passes = False
    """Whether a server says by itself that it is busy, stopping or starting: a start waits for that, too."""


class DamagedError(StorageError):
    """What is stored of a study is not what was written: a disk or a person has changed it."""


class StudyGoneError(StorageError):
    """The study, or its storage, was deleted while it was in use."""


class StudyBusyError(RegsearchError):
    """Another process runs this study right now."""


class DetachError(RegsearchError):
    """A detached process cannot be started."""


class TrackingError(RegsearchError):
    """MLflow cannot be written."""


class TrainerError(RegsearchError):
    """A trainer could not be started, or trainers keep dying."""


class ExportError(RegsearchError):
    """There is nothing to export, or no place for it."""


class OutputError(RegsearchError):
    """Results cannot be printed to standard output."""

    broken_pipe = False
    """Whether their reader, such as `head`, has left: it has what it wanted, and no message is due."""

    @classmethod
    def of(cls, error: OSError) -> "OutputError":
        """Return what a failed write means."""
        output_error = cls(f"standard output cannot be written ({error.strerror or error})")
        if isinstance(error, BrokenPipeError):
            output_error.broken_pipe, output_error.exit_code = True, 128 + signal.SIGPIPE
        return output_error

    def with_advice(self, advice: str) -> "OutputError":
        """Return the same error with the way to see the results all the same, which is due in any case."""
        advised = OutputError(f"{self}; {advice}")
        advised.exit_code = self.exit_code
        return advised


class ReportError(RegsearchError):
    """The report or its plots cannot be written, or there is no browser to draw the plots with."""


class DashboardError(RegsearchError):
    """A dashboard cannot be started, or died."""


_LONGEST_WORD = 200


def did_you_mean(word: str, known: Iterable[str]) -> str:
    """Return `; did you mean "x"?` for the nearest of `known`, or an empty string when none is near."""
    near = difflib.get_close_matches(word[:_LONGEST_WORD], list(known), n=1, cutoff=0.5)
    return f'; did you mean "{near[0]}"?' if near else ""
