"""What each ingredient of a winning configuration is worth: the same trained without it, seed by seed. Plain values."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from search.confirmation import Diverged, Picks, Repeat, Repeats
from search.intervals import Difference, paired_difference
from search.records import Params
from search.spec import parameter_of

_WHOLE = 0


@dataclass(frozen=True)
class Ablation:
    """A configuration and what becomes of it when one ingredient at a time is left out."""

    trial: int
    """Whose configuration it is."""
    names: tuple[str, ...]
    """The ingredients: regularizers that are not off."""
    runs: tuple[Repeat, ...] = ()
    """All that was trained; their `trial` is 0 for the whole configuration, and i + 1 without the i-th ingredient."""
    diverged: tuple[Diverged, ...] = ()
    """All that was trained to no result, numbered alike."""

    @staticmethod
    def of(trial: int, params: Params) -> Ablation:
        """Return the ablation of a configuration before anything is trained."""
        return Ablation(trial, tuple(n for n, value in params.items() if parameter_of(n).regularizer and value != 0))

    def variants(self, params: Params) -> dict[int, Params]:
        """Return the configurations to train, by number."""
        without = {number: {**params, name: 0.0} for number, name in enumerate(self.names, _WHOLE + 1)}
        return {_WHOLE: params, **without}

    def labels(self) -> dict[int, str]:
        """Return what to call the configurations to train, by number."""
        return {_WHOLE: "all", **{number: f"no {name}" for number, name in enumerate(self.names, _WHOLE + 1)}}

    def repeats(self) -> Repeats:
        """Return what is to be trained, and what has been, in the form of a confirmation."""
        return Repeats(Picks([_WHOLE, *range(1, len(self.names) + 1)], None, None), self.runs, self.diverged)

    def effects(self) -> Mapping[str, Difference]:
        """Return by how much the validation loss rises without each ingredient, what matters most first."""
        repeats = self.repeats()
        whole = {run.seed: run.val_loss for run in repeats.of(_WHOLE)}
        pairs = {
            name: [(run.val_loss, whole[run.seed]) for run in repeats.of(number) if run.seed in whole]
            for number, name in enumerate(self.names, _WHOLE + 1)
        }
        effects = {name: paired_difference(each) for name, each in pairs.items() if each}
        return dict(sorted(effects.items(), key=lambda item: -item[1].mean))

    @property
    def remarks(self) -> list[str]:
        """What one has to know of these effects, in sentences: training that fails is no rise of any loss."""
        failed = Counter(each.trial for each in self.diverged)
        seeds = failed + Counter(run.trial for run in self.runs)
        labels = self.labels() | {_WHOLE: "all of it"}
        return [
            f"With {labels[number]} training ends without a result with {failed[number]} of {seeds[number]} seeds."
            for number in sorted(failed)
        ]

    def to_json(self) -> dict[str, Any]:
        """Return plain values."""
        told = self.repeats().to_json()
        return {"trial": self.trial, "names": list(self.names), "runs": told["runs"], "diverged": told["diverged"]}
