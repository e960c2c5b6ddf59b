"""The weights that are kept beside a study: what the disk does not take costs no search."""

import errno
import os

import torch
from safetensors.torch import load, save
from scripted import ScriptedTrainer, falling
from test_runner import run, spec, study  # noqa: F401  fixtures

from search.records import Reason
from search.weights import WeightStore


def test_weights_that_cannot_be_written_do_not_end_the_search_which_says_so_once(study, tmp_path):  # noqa: F811
    (tmp_path / "weights").write_text("in the way")
    weights = WeightStore(tmp_path / "weights")
    notes = run(study, tmp_path, ScriptedTrainer(falling, slots=1), trials=4, weights=weights)
    assert notes.reasons == [Reason.COMPLETED] * 4
    (message,) = notes.messages
    assert message.startswith(f"Weights cannot be written to {tmp_path / 'weights'} (")
    assert weights.load(0) is None


def test_weights_of_another_study_of_the_same_name_are_not_there(tmp_path):
    ours = save({"layer.weight": torch.arange(6.0).view(2, 3), "steps": torch.tensor(7)})
    WeightStore(tmp_path, study="deleted since").save(0, ours)
    weights = WeightStore(tmp_path, study="this")
    assert weights.load(0) is None
    weights.save(0, ours)
    kept = weights.load(0)
    assert {name: tensor.tolist() for name, tensor in load(kept).items()} == {
        "layer.weight": [[0.0, 1.0, 2.0], [3.0, 4.0, 5.0]],
        "steps": 7,
    }
    assert WeightStore(tmp_path).load(0) == kept


def test_weights_of_which_a_part_was_written_leave_nothing_behind(tmp_path, monkeypatch):
    def full(_source, _target):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "replace", full)
    weights = WeightStore(tmp_path)
    weights.save(0, b"a few")
    assert list(tmp_path.iterdir()) == []
    assert "No space left on device" in weights.take_notice()
    weights.save(1, b"more")
    assert not weights.take_notice()
