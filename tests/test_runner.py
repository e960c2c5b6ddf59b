"""The runner's decisions, with a scripted trainer and a real study: every reason, refills, budgets, lost trainers."""

import math
import time
from dataclasses import replace
from functools import partial

import pytest
from conftest import SPEC
from fixed_study import curve
from scripted import Notes, ScriptedCrew, ScriptedTrainer, falling

from search import runner as runner_module
from search.errors import TrainerError
from search.pruning import NoPruner, SuccessiveHalving, make_pruner
from search.records import Reason, Role
from search.runner import Runner
from search.shortage import Shortage
from search.spec import PrunerSpec, load_spec
from search.stopping import StopRequest
from search.study import Study, open_storage
from search.trainers import KilledForMemory, OutOfMemory, TrainerLost, TrainerStopped
from search.weights import WeightStore

MAX_EPOCHS = 4  # of the tiny spec


@pytest.fixture
def spec(tmp_path):
    path = tmp_path / "tiny.toml"
    path.write_text(SPEC)
    return load_spec(str(path))


@pytest.fixture
def study(spec, tmp_path):
    study = Study.open("tiny", spec, open_storage(None, tmp_path), tmp_path)
    yield study
    study.close()


def run(study, tmp_path, *trainers, trials=6, pruner=None, stop=None, weights=None):
    notes = Notes()
    study.spec = study.spec.with_overrides(trials=trials)
    weights = weights or WeightStore(tmp_path / "weights")
    crew = ScriptedCrew(*trainers)
    runner = Runner(study, crew, pruner or NoPruner(), weights, notes, stop or StopRequest())
    runner.run()
    return notes


def test_trials_complete_up_to_the_budget_and_slots_are_refilled(study, tmp_path):
    trainer = ScriptedTrainer(falling, slots=2)
    notes = run(study, tmp_path, trainer, trials=5)
    assert notes.reasons == [Reason.COMPLETED] * 5
    assert notes.started_numbers == [0, 1, 2, 3, 4]
    assert all(len(record.epochs) == MAX_EPOCHS for record in study.records())
    assert study.spent() == 5
    assert not trainer.closed


def test_baseline_and_textbook_come_first(study, tmp_path):
    notes = run(study, tmp_path, ScriptedTrainer(falling), trials=3)
    assert sorted((r.number, r.role) for r in notes.records)[:2] == [(0, Role.BASELINE), (1, Role.TEXTBOOK)]
    baseline = next(record for record in notes.records if record.role is Role.BASELINE)
    assert {baseline.params[name] for name in ("input_dropout", "dropout_0", "dropout_1", "weight_decay", "l1")} == {0}


def test_a_record_tells_which_trainer_ran_the_trial(study, tmp_path):
    other = Runner(study, ScriptedCrew(ScriptedTrainer(falling)), NoPruner(), None, Notes(), StopRequest())
    other._posts[0].place = 7
    other.run()
    assert [record.worker for record in study.records()] == ["7"] * 6


@pytest.mark.parametrize("pruner", ["median", "percentile", "hyperband"])
def test_what_another_ends_while_this_one_joins_is_heard_of_twice_and_counts_once(spec, tmp_path, pruner):
    search = spec.search.model_copy(update={"pruner": PrunerSpec(name=pruner)})
    spec, storage = spec.model_copy(update={"search": search}), open_storage(None, tmp_path)
    other = Study.open("tiny", spec, storage, tmp_path)
    joining = Study.open("tiny", spec, storage, tmp_path)
    assigned = [other.ask() for _ in range(3)]
    for assignment in assigned:
        other.finish(assignment.number, Reason.COMPLETED, curve(0.5, 0.4))
    notes = Notes()
    runner = Runner(joining, ScriptedCrew(ScriptedTrainer(falling)), make_pruner(spec), None, notes, StopRequest())
    runner._take_in(joining.news())
    assert [record.number for record in notes.records] == [assignment.number for assignment in assigned]
    runner.run()
    assert joining.spent() == 6
    joining.close()
    other.close()


def test_early_stop_after_patience_epochs_without_improvement(study, tmp_path):
    # A first epoch that is never beaten: patience 2 ends it after epoch 3.
    notes = run(study, tmp_path, ScriptedTrainer(lambda a: lambda epoch: float(epoch)), trials=6)
    for record in notes.records:
        expected = min(MAX_EPOCHS, 1 + int(record.params["patience"]))
        assert len(record.epochs) == expected
        assert record.reason is (Reason.EARLY_STOPPED if expected < MAX_EPOCHS else Reason.COMPLETED)
        assert record.best.epoch == 1


def test_patience_does_not_count_the_epochs_before_weights_are_averaged(spec, tmp_path):
    space = {**spec.space.root, "weight_averaging": 0.3, "patience": 1}
    spec = spec.model_copy(update={"space": type(spec.space)(space)})
    study = Study.open("averaged", spec, open_storage(None, tmp_path), tmp_path)
    notes = run(study, tmp_path, ScriptedTrainer(lambda a: lambda epoch: float(epoch)), trials=3)
    study.close()
    # The last two of four epochs are averaged: that of the third is the first to say anything. The baseline has none.
    assert {record.role: len(record.epochs) for record in notes.records}[Role.BASELINE] == 2
    assert {len(record.epochs) for record in notes.records if record.role is not Role.BASELINE} == {3}


def test_pruned_trials_end_and_the_baseline_is_neither_pruned_nor_prunes(study, tmp_path):
    def curve(assignment):
        # The baseline learns fastest, then the first sampled trial.
        level = {Role.BASELINE: 0.1}.get(assignment.role, 1.0 + assignment.number)
        return lambda epoch: level / epoch

    trainer = ScriptedTrainer(curve, slots=6)
    notes = run(study, tmp_path, trainer, trials=6, pruner=SuccessiveHalving(2, 2, MAX_EPOCHS))
    by_number = {record.number: record for record in notes.records}
    assert by_number[0].reason is Reason.COMPLETED
    assert {n for n, record in by_number.items() if record.reason is Reason.PRUNED} == {4, 5}
    assert {len(by_number[n].epochs) for n in (4, 5)} == {2}


@pytest.mark.parametrize("loss", [math.nan, math.inf])
def test_loss_that_is_not_finite_ends_the_trial_alone(study, tmp_path, loss):
    def curve(assignment):
        return lambda epoch: loss if assignment.number == 2 and epoch == 2 else 1.0 / epoch

    notes = run(study, tmp_path, ScriptedTrainer(curve), trials=5)
    assert {record.number: record.reason for record in notes.records}[2] is Reason.DIVERGED
    assert notes.reasons.count(Reason.COMPLETED) == 4
    assert study.spent() == 5
    assert len(study.records()[2].epochs) == 2


def test_trial_that_cannot_be_admitted_ends_as_error(study, tmp_path):
    def curve(assignment):
        return lambda epoch: "ValueError: no such thing" if assignment.number == 3 else 1.0 / epoch

    notes = run(study, tmp_path, ScriptedTrainer(curve), trials=5)
    failed = next(record for record in notes.records if record.number == 3)
    assert (failed.reason, failed.error) == (Reason.ERROR, "ValueError: no such thing")
    assert study.spent() == 5


class StopAfter(StopRequest):
    """A request to stop that comes after so many questions."""

    def __init__(self, questions):
        super().__init__()
        self.questions = questions

    def __call__(self):
        self.questions -= 1
        return self.questions < 0


def test_stop_puts_everything_unfinished_back_in_the_queue(study, tmp_path):
    notes = run(study, tmp_path, ScriptedTrainer(falling, slots=2), trials=6, stop=StopAfter(2))
    assert set(notes.reasons) == {Reason.INTERRUPTED}
    assert study.spent() == 0
    assert study.waiting() == len(notes.records)
    again = run(study, tmp_path, ScriptedTrainer(falling, slots=2), trials=6)
    assert again.reasons == [Reason.COMPLETED] * 6
    assert sorted(r.retry_of for r in again.records if r.retry_of is not None) == sorted(
        r.number for r in notes.records
    )


class Dying(ScriptedTrainer):
    """Dies in its second epoch."""

    def collect(self):
        if any(epoch for epoch, _ in self.occupied.values()):
            raise TrainerLost("out of memory")
        return super().collect()


def test_lost_trainer_is_replaced_and_its_trials_run_again(study, tmp_path):
    dead = Dying(falling)
    notes = run(study, tmp_path, dead, ScriptedTrainer(falling), trials=6)
    assert dead.closed
    assert notes.reasons.count(Reason.COMPLETED) == 6
    assert notes.reasons.count(Reason.INTERRUPTED) == 3
    assert study.spent() == 6
    assert any("out of memory" in message for message in notes.messages)


class Keeping(ScriptedTrainer):
    """Goes on with trials where the last trainer had brought them; may die when its first trial begins an epoch."""

    def __init__(self, curve, kept, slots=3, dies_in=None, notice=""):
        super().__init__(curve, slots)
        self._kept, self._dies_in, self._notice, self._resumed = kept, dies_in, notice, {}

    def begin(self, admit, free):
        super().begin(admit, free)
        self._resumed = {}
        for assignment in admit:
            if rows := self._kept.get(assignment.seed):
                self.occupied[assignment.number][0] = len(rows)
                self._resumed[assignment.number] = tuple(rows)

    def collect(self):
        if any((assignment.seed, epoch + 1) == self._dies_in for epoch, assignment in self.occupied.values()):
            raise TrainerLost("out of memory")
        report = replace(super().collect(), resumed=self._resumed, notice=self._notice)
        for number, result in report.results.items():
            self._kept.setdefault(self.occupied[number][1].seed, []).append(result)
        return report


def test_trials_of_a_lost_trainer_go_on_from_their_checkpoints(study, tmp_path):
    kept = {}
    notes = run(study, tmp_path, Keeping(falling, kept, dies_in=(0, 3)), Keeping(falling, kept), trials=6)
    assert notes.reasons.count(Reason.COMPLETED) == 6
    assert notes.reasons.count(Reason.INTERRUPTED) == 3
    # Nobody has trained an epoch twice, and everything is told of each trial all the same.
    assert [len(rows) for rows in kept.values()] == [MAX_EPOCHS] * 6
    again = [record for record in study.records() if record.retry_of is not None]
    assert len(again) == 3
    for record in again:
        assert list(record.epochs) == kept[record.retry_of]
    stored = {trial.number: trial.intermediate_values for trial in study._trials()}
    assert {tuple(stored[record.number]) for record in again} == {(1, 2, 3, 4)}


@pytest.mark.parametrize("keeps", [True, False])
def test_a_trial_that_goes_on_is_not_judged_again_by_those_who_came_after_it(study, tmp_path, keeps):
    """At the first rung it was alone, and went on; the next one to come there was better."""

    def curve(assignment):
        level = {0: math.nan, 1: 1.0}.get(assignment.seed, 0.5)
        return lambda epoch: level / epoch

    kept = {}
    trainers = [Keeping(curve, kept, slots=2, dies_in=(1, 3)), Keeping(curve, kept if keeps else {}, slots=2)]
    run(study, tmp_path, *trainers, trials=4, pruner=SuccessiveHalving(1, 2, MAX_EPOCHS))
    (again,) = [record for record in study.records() if record.retry_of == 1]
    assert again.reason is (Reason.COMPLETED if keeps else Reason.PRUNED)


def test_what_trainers_have_to_say_is_said_once(study, tmp_path):
    kept = {}
    trainers = [Keeping(falling, kept, dies_in=(0, 3), notice="disk full"), Keeping(falling, kept, notice="disk full")]
    assert run(study, tmp_path, *trainers).messages.count("disk full") == 1


def test_out_of_memory_halves_the_slots_and_goes_on(study, tmp_path):
    class Big(ScriptedTrainer):
        def collect(self):
            if len(self.occupied) > 1:
                raise OutOfMemory("CUDA out of memory")
            return super().collect()

    notes = run(study, tmp_path, *(Big(falling, slots=8) for _ in range(4)), trials=6)
    assert notes.reasons.count(Reason.COMPLETED) == 6
    assert study.spent() == 6
    assert sum("half the slots" in message for message in notes.messages) == 3


@pytest.mark.parametrize(("kind", "slots"), [(KilledForMemory, 4), (OutOfMemory, 1)])
def test_where_fewer_slots_do_not_help_the_others_go_on_with_the_memory_and_no_trial_is_to_blame(study, kind, slots):
    class Killed(ScriptedTrainer):
        def collect(self):
            raise kind("the container is full")

    first = Killed(falling, slots=slots)
    notes = run_on(Machine([first, ScriptedTrainer(falling)], room=0), study, trials=6)
    assert first.closed
    assert notes.messages == ["The search goes on with 1 of its trainers: the container is full"]
    assert notes.reasons.count(Reason.COMPLETED) == study.spent() == 6
    assert {record.error for record in notes.records} == {None}


class Machine(ScriptedCrew):
    """Several trainers; those that come after them have no room before `room` questions."""

    def __init__(self, first, *others, room):
        super().__init__(None, *others)
        self.trainers = first
        for other in others:
            other.room = room


class Waiting(ScriptedTrainer):
    room = 0

    @property
    def lacks(self):
        self.room -= 1
        return "1 CPU" if self.room >= 0 else None


def run_on(machine, study, trials):
    notes, study.spec = Notes(), study.spec.with_overrides(trials=trials)
    Runner(study, machine, NoPruner(), None, notes, StopRequest()).run()
    return notes


def test_a_trainer_that_lacks_room_gets_no_trials_and_nobody_waits_for_it(study):
    dead, other, late = Dying(falling), ScriptedTrainer(falling), Waiting(falling)
    notes = run_on(Machine([dead, other], late, room=1_000_000), study, trials=9)
    assert notes.reasons.count(Reason.COMPLETED) == 9
    assert study.spent() == 9
    assert study.waiting() == 0
    assert late.occupied == {}


def test_what_was_asked_for_a_trainer_that_is_given_up_is_run_by_others(study):
    class Dead(ScriptedTrainer):
        def collect(self):
            raise TrainerLost("no such device")

    hopeless = [Dead(falling) for _ in range(3)]
    machine = Machine([hopeless[0], ScriptedTrainer(falling, slots=1)], *hopeless[1:], room=0)
    notes = run_on(machine, study, trials=8)
    assert "The search goes on with 1 of its trainers" in notes.messages[-1]
    assert study.spent() == 8
    assert study.summary().trials["running"] == study.waiting() == 0


def test_a_trainer_joins_in_once_there_is_room(study):
    late = Waiting(falling)
    notes = run_on(Machine([Dying(falling)], late, room=3), study, trials=6)
    assert notes.reasons.count(Reason.COMPLETED) == 6
    assert late.occupied


def test_a_trainer_that_waits_for_others_to_end_their_trials_has_room_all_the_same(study, monkeypatch):
    late, asked, unfinished = Waiting(falling), [], study.unfinished
    late.room = 1_000_000

    def still_at_it():
        asked.append(1)
        return unfinished() if len(asked) > 3 else 1

    monkeypatch.setattr(study, "unfinished", still_at_it)
    monkeypatch.setattr(runner_module, "_IDLE_SECONDS", 0.01)
    monkeypatch.setattr(runner_module, "Shortage", partial(Shortage, patience=0.0))
    notes = run_on(Machine([ScriptedTrainer(falling), late], room=0), study, trials=6)
    assert notes.reasons == [Reason.COMPLETED] * 6
    assert len(asked) > 3


def test_a_lost_machine_with_many_trainers_does_not_end_the_search(study):
    dead = [Dying(falling, slots=1) for _ in range(4)]
    notes = run_on(Machine(dead, *(ScriptedTrainer(falling, slots=1) for _ in range(4)), room=0), study, trials=6)
    assert sum("replaced by another" in message for message in notes.messages) == 4
    assert notes.reasons.count(Reason.COMPLETED) == 6


def test_trial_that_kills_its_trainer_three_times_ends_as_error(study, tmp_path):
    class Picky(ScriptedTrainer):
        def collect(self):
            if any(assignment.seed == 2 and epoch for epoch, assignment in self.occupied.values()):
                raise TrainerLost("killed")
            return super().collect()

    notes = run(study, tmp_path, *(Picky(falling, slots=1) for _ in range(4)), trials=4)
    assert [r.reason for r in notes.records if (r.retry_of or r.number) == 2] == [
        Reason.INTERRUPTED,
        Reason.INTERRUPTED,
        Reason.ERROR,
    ]
    assert study.spent() == 4


def test_trainers_that_never_finish_an_epoch_end_the_search(study, tmp_path):
    class Dead(ScriptedTrainer):
        def collect(self):
            raise TrainerLost("no such device")

    with pytest.raises(TrainerError, match="no such device"):
        run(study, tmp_path, *(Dead(falling) for _ in range(3)))
    assert study.summary().trials["running"] == 0
    assert study.spent() == 0


def test_one_of_several_trainers_that_cannot_be_kept_alive_is_given_up(study, tmp_path):
    class Dead(ScriptedTrainer):
        def collect(self):
            raise TrainerLost("device lost")

    class Crew(ScriptedCrew):
        def __init__(self):
            self.trainers = [Dead(falling), ScriptedTrainer(falling)]

        def replace(self, index, fewer_slots=False):
            assert index == 0
            self.trainers[0].close()
            self.trainers[0] = Dead(falling)
            return self.trainers[0]

    notes, study.spec = Notes(), study.spec.with_overrides(trials=20)
    Runner(study, Crew(), NoPruner(), None, notes, StopRequest()).run()
    ended = [record.reason for record in study.records() if not record.reason.is_no_result]
    assert len(ended) == study.spent() == 20
    assert ended.count(Reason.COMPLETED) >= 17  # what was there all three times cannot be told from what is to blame
    assert "The search goes on with 1 of its trainers" in notes.messages[-1]


def test_an_epoch_that_does_not_end_is_a_lost_trainer(study, tmp_path, monkeypatch):
    class Hanging(ScriptedTrainer):
        epochs = 0

        def collect(self):
            self.epochs += 1
            return super().collect()

    hanging, other = Hanging(falling), ScriptedTrainer(falling)
    monkeypatch.setattr("search.posts.LEAST_HANG_SECONDS", 0.3)
    monkeypatch.setattr("search.posts.HANG_FACTOR", 0.0)
    real = runner_module.wait_for_any

    def wait_for_any(trainers, timeout):
        if hanging in trainers and hanging.epochs == 2:
            time.sleep(timeout)
            return []
        return real(trainers, timeout)

    monkeypatch.setattr(runner_module, "wait_for_any", wait_for_any)
    notes = run(study, tmp_path, hanging, other, trials=6)
    assert hanging.closed
    assert notes.reasons.count(Reason.COMPLETED) == 6
    assert "an epoch has not ended after" in notes.messages[0]


def test_stopped_epoch_is_not_a_lost_trainer(study, tmp_path):
    class Stopping(ScriptedTrainer):
        def collect(self):
            raise TrainerStopped

    stop = StopAfter(1)
    notes = run(study, tmp_path, Stopping(falling), stop=stop)
    assert set(notes.reasons) == {Reason.INTERRUPTED}
    assert not notes.messages


def test_storage_failure_ends_the_search_with_its_error(study, tmp_path, monkeypatch):
    def broken(*_args):
        raise OSError("disk full")

    monkeypatch.setattr(study, "report", broken)
    with pytest.raises(OSError, match="disk full"):
        run(study, tmp_path, ScriptedTrainer(falling))


def test_weights_are_kept_for_the_best_and_the_baseline_only(study, tmp_path):
    saved = []

    class Store(WeightStore):
        def save(self, trial, weights):
            saved.append(trial)

    def curve(assignment):
        level = [5.0, 3.0, 4.0, 2.0][assignment.number]
        return lambda epoch: level / epoch

    run(study, tmp_path, ScriptedTrainer(curve, slots=1), trials=4, weights=Store(tmp_path / "weights"))
    assert saved == [0, 1, 3]
