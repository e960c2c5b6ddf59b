"""How many trainers a search gets, of how many slots, and on which devices they are."""

import pytest

from search import crew
from search.crew import Crew
from search.errors import DataError
from search.spec import load_spec, read_spec
from search.trainers import KilledForMemory, RayWishes, TrainerDied, TrainerLost
from search.trainers.local import _factory
from search.training.regularizers import BatchNorm
from search.wishes import Wishes


@pytest.mark.parametrize(
    ("trials", "workers", "population", "expected"),
    [
        (64, None, None, (2, 8)),
        (200, None, None, (2, 16)),
        (4, None, None, (2, 1)),
        (1, None, None, (1, 1)),
        (64, 1, None, (1, 16)),
        (64, 4, None, (4, 4)),
        (64, 0, None, (1, 16)),
        (3, 8, None, (3, 1)),
        (64, None, 50, (2, 50)),
        (6, None, 6, (1, 6)),
        (3, 1, 999_999, (1, 3)),
    ],
)
def test_plan_on_two_cores(monkeypatch, trials, workers, population, expected):
    monkeypatch.setattr(crew, "cores", lambda: 2)
    assert crew.plan(trials, workers, population, ["cpu"]) == expected


@pytest.mark.parametrize(
    ("trials", "population", "expected"), [(256, None, (2, 32)), (1000, None, (2, 64)), (256, 128, (2, 128))]
)
def test_plan_on_two_gpus(trials, population, expected):
    assert crew.plan(trials, None, population, ["cuda:0", "cuda:1"]) == expected


class Waiting:
    """A trainer in a cluster that has room for one."""

    slots = 2

    def __init__(self, has_room):
        self.lacks = None if has_room else "1 CPU"
        self.setups, self.closed = [], False

    def set_up(self, setup):
        self.setups.append(setup)
        self.slots = setup.slots

    def get_ready(self):
        assert self.lacks is None, "it would wait"
        return "the checksum"

    def close(self):
        self.closed = True


class Cluster:
    devices, places, notice = ["cpu"], 2, None

    def __init__(self):
        self.hired = []

    def start_trainer(self, should_stop):
        self.hired.append(Waiting(has_room=not self.hired))
        return self.hired[-1]


def test_a_search_begins_with_the_trainers_that_have_room_and_tells_the_others_what_the_data_are(monkeypatch, tmp_path):
    cluster = Cluster()
    monkeypatch.setattr(crew, "_cluster", lambda _wishes: cluster)
    monkeypatch.setattr(crew, "_LATECOMER_SECONDS", 0.0)
    both = Crew(load_spec("digits"), Wishes(tmp_path, ray=RayWishes("local")))
    both.start()
    assert both.get_ready() == {"the checksum"}
    early, late, later = cluster.hired
    assert both.trainers == [early, later]
    assert (early.closed, late.closed, later.closed) == (False, True, False)
    assert [setup.fingerprint for setup in (*early.setups, *later.setups)] == [None, "the checksum"]


def test_a_trainer_whose_memory_was_too_small_has_half_the_slots_and_the_others_keep_theirs(monkeypatch, tmp_path):
    cluster = Cluster()
    monkeypatch.setattr(crew, "_cluster", lambda _wishes: cluster)
    monkeypatch.setattr(crew, "_LATECOMER_SECONDS", 0.0)
    monkeypatch.setattr(Crew, "_look_around", lambda *_: None)
    four = Crew(load_spec("digits"), Wishes(tmp_path, workers=4, population=8, ray=RayWishes("local")))
    four.start()
    four.get_ready()
    assert [four.replace(index, fewer_slots=True).slots for index in (0, 1)] == [4, 4]
    assert four.replace(0).slots == 4
    assert four.replace(0, fewer_slots=True).slots == 2
    assert four.replace(2).slots == 8
    assert four.replace(1, fewer_slots=True).slots == 2


def test_a_trainer_that_is_found_misconfigured_between_two_tasks_is_replaced(monkeypatch, tmp_path):
    def fail(_trainer):
        raise DataError("not what the others have")

    cluster = Cluster()
    monkeypatch.setattr(crew, "_cluster", lambda _wishes: cluster)
    monkeypatch.setattr(Waiting, "vacate", fail, raising=False)
    monkeypatch.setattr(crew, "_LATECOMER_SECONDS", 0.0)
    both = Crew(load_spec("digits"), Wishes(tmp_path, ray=RayWishes("local")))
    both.start()
    before = list(both.trainers)
    both.vacate()
    assert all(trainer.closed for trainer in before)
    assert not any(trainer.closed for trainer in both.trainers)


@pytest.mark.parametrize(
    ("model", "batch_norm", "expected"),
    [
        ({"name": "transformer", "hidden": [6], "width": 8}, False, False),
        ({"name": "mlp", "hidden": [6]}, False, False),
        ({"name": "mlp", "hidden": [6]}, True, True),
        ({"name": "mlp", "hidden": [6]}, {"switch": True}, True),
    ],
)
def test_models_have_batch_norms_only_where_one_may_be_on(tmp_path, model, batch_norm, expected):
    space = {"batch_norm": batch_norm, "l1": {"low": 0.0, "high": 0.1}}
    spec = read_spec({"name": "normal", "data": {"name": "digits"}, "model": model, "space": space})
    alone = Crew(spec, Wishes(tmp_path, device="cpu", workers=0, kernels="torch"))
    alone.start()
    (trainer,) = alone.trainers
    modules = _factory(trainer._setup, trainer._data)().modules()
    assert any(isinstance(module, BatchNorm) for module in modules) == expected


class Starting:
    """A trainer that fails with some of the errors while it starts."""

    lacks, slots = None, 2

    def __init__(self, errors):
        self._errors, self.closed = errors, False

    def set_up(self, setup):
        self.device, self.slots = setup.device, setup.slots

    def get_ready(self):
        if self._errors:
            raise self._errors.pop(0)
        return "the checksum"

    def close(self):
        self.closed = True


DIED, KILLED = TrainerDied("SIGKILL"), KilledForMemory("its container is full")


@pytest.fixture
def starting(monkeypatch, tmp_path):
    """Return what starts a crew on two devices whose trainers share a list of errors, and the trainers in order."""

    def start(*errors, workers=2):
        left, hired = list(errors), []

        def hire(_crew):
            hired.append(Starting(left))
            return hired[-1]

        monkeypatch.setattr(Crew, "_hire", hire)
        made = Crew(load_spec("digits"), Wishes(tmp_path, workers=workers, kernels="torch", device="cpu"))
        made.devices = ["cuda:0", "cuda:1"]
        made.start()
        return made, hired

    return start


@pytest.mark.parametrize("deaths", [1, 2])
def test_a_trainer_that_dies_before_the_search_has_begun_is_replaced(starting, deaths):
    made, hired = starting(*[DIED] * deaths)
    assert made.get_ready() == {"the checksum"}
    assert len(made.trainers) == 2
    assert [trainer for trainer in hired if not trainer.closed] == [hired[1], hired[-1]]
    assert made.notices == ["A trainer failed while it started, and was replaced: SIGKILL"] * deaths


def test_a_place_where_every_trainer_dies_is_given_up_and_the_others_keep_their_devices(starting):
    made, _ = starting(*[DIED] * 3)
    made.get_ready()
    (left,) = made.trainers
    assert left.device == made.replace(0).device == "cuda:1"
    assert made.notices[-1] == "The search begins with 1 of 2 trainers: SIGKILL"


def test_a_search_begins_with_fewer_trainers_where_memory_is_what_lacks(starting):
    made, hired = starting(KILLED)
    made.get_ready()
    assert len(hired) == 2  # no other was started, which would need as much
    assert made.trainers == hired[1:]
    assert made.notices == ["The search begins with 1 of 2 trainers: its container is full"]


def test_the_last_trainer_is_started_again_since_the_others_have_left_their_memory_to_it(starting):
    made, hired = starting(KILLED, KILLED)
    made.get_ready()
    assert made.trainers == hired[2:]


@pytest.mark.parametrize("error", [DIED, KILLED])
def test_the_last_trainer_is_not_started_for_ever(starting, error):
    made, hired = starting(*[error] * 99, workers=1)
    with pytest.raises(TrainerLost, match=str(error)):
        made.get_ready()
    assert len(hired) == 3


@pytest.mark.parametrize("error", [TrainerLost("ModuleNotFoundError: no module named x"), DataError("no such data")])
def test_an_error_that_another_trainer_would_meet_too_is_told_at_once(starting, error):
    made, hired = starting(error)
    with pytest.raises(type(error), match=str(error)):
        made.get_ready()
    assert len(hired) == 2


def test_a_search_begins_with_as_many_trainers_as_the_system_allows(monkeypatch, tmp_path):
    hired = []

    def hire(_crew):
        if len(hired) == 2:
            raise TrainerDied("the system refuses another process")
        hired.append(Starting([]))
        return hired[-1]

    monkeypatch.setattr(Crew, "_hire", hire)
    made = Crew(load_spec("digits"), Wishes(tmp_path, workers=5, kernels="torch", device="cpu"))
    made.start()
    made.get_ready()
    assert made.trainers == hired
    assert made.notices == ["The search begins with 2 of 5 trainers: the system refuses another process"]
