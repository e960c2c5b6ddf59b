"""Who runs which study, as text and as JSON: what `status` and `stop` print."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from datetime import datetime
from typing import TYPE_CHECKING, Any

from rich.console import Console

from search.printable import first_line, one_line

if TYPE_CHECKING:
    from search.study.leases import RunnerRecord
    from search.study.roster import Answer, Dismissal, Presence, Standing

_LIVES = {
    "alive": "alive",
    "dead": "dead: the next start puts its trials back into the queue",
    "unknown": "no telling from here whether it lives",
}
_ANSWERS: dict[Answer, str] = {
    "asked": "asked to stop",
    "finishing": "ends the epochs under way",
    "gone": "has left",
    "dead": "had died; the next start puts its trials back into the queue",
    "silent": "does not answer; if it runs, Ctrl-C or SIGTERM there stops it",
}


def as_json(standings: Sequence[Standing]) -> dict[str, Any]:
    """Return what `status --json` prints; its keys never change meaning."""
    return {"studies": [_standing_json(standing) for standing in standings]}


def print_standings(standings: Sequence[Standing], console: Console) -> None:
    """Print how far each study is, and a line for each process that runs it."""
    if not standings:
        console.print("Nobody runs a study here.")
    for standing in standings:
        console.print(one_line(_progress(standing)), markup=False, soft_wrap=True)
        for presence in standing.runners:
            console.print(f"  {_name(presence.record)}, {_work(presence)}", markup=False, soft_wrap=True)
        if not standing.runners:
            console.print("  nobody runs it; the command that began it goes on with it")
        if standing.failures:
            console.print(f"  without a result: {one_line(_failures(standing))}", markup=False, soft_wrap=True)


def tell_of_dismissal(dismissal: Dismissal, console: Console) -> bool:
    """Print what becomes of a request to stop, a line for each change; return whether all have left in the end."""
    told: dict[str, Answer] = {}
    while True:
        answers = dismissal.answers()
        for runner in dismissal.runners:
            answer = answers[runner.runner]
            if told.get(runner.runner) != answer:
                console.print(f"{_name(runner)}: {_ANSWERS[answer]}", markup=False, soft_wrap=True)
        told = answers
        if not {"asked", "finishing"} & {*told.values()}:
            return "silent" not in told.values()
        dismissal.pause()


def _name(runner: RunnerRecord) -> str:
    return f"process {runner.pid} on {runner.host}"


def _progress(standing: Standing) -> str:
    running = sum(len(presence.trials) for presence in standing.runners)
    queue = f", {standing.waiting} in the queue" if standing.waiting else ""
    return f"{standing.study}: {standing.ended} of {standing.budget} trials have ended, {running} running{queue}"


def _work(presence: Presence) -> str:
    since = datetime.fromisoformat(presence.record.since).astimezone()
    parts = [f"since {since:%Y-%m-%d %H:%M}", _LIVES[presence.life]]
    if presence.stopping:
        parts.append("asked to stop")
    if presence.record.task == "finish":
        parts.append("confirms or explains")
    if presence.trials:
        parts.append(f"trial{'s' if len(presence.trials) > 1 else ''} {', '.join(map(str, presence.trials))}")
    return ", ".join(parts)


def _failures(standing: Standing) -> str:
    counts = ", ".join(f"{count} {reason}" for reason, count in standing.failures.items())
    return counts if standing.last_error is None else f"{counts}; the last: {first_line(standing.last_error)}"


def _standing_json(standing: Standing) -> dict[str, Any]:
    runners = [_presence_json(presence) for presence in standing.runners]
    return asdict(standing) | {"failures": dict(standing.failures), "runners": runners}


def _presence_json(presence: Presence) -> dict[str, Any]:
    record = presence.record
    return {
        "host": record.host,
        "pid": record.pid,
        "since": record.since,
        "task": record.task,
        "life": presence.life,
        "stopping": presence.stopping,
        "trials": [{"number": number, "epochs": epochs} for number, epochs in presence.trials.items()],
    }
