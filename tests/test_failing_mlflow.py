"""A tracking server that fails now and then: it gets everything once, and the search learns what it does not take.

The tracking process's own work is done in this process, for speed; a real server stands behind a hostile proxy.
"""

import json
import math
import random
import shutil
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from http.server import BaseHTTPRequestHandler
from pathlib import Path
from typing import Any

import pytest
import requests
from mlflow.tracking import MlflowClient
from mlflow_runs import Reader, number_of
from mlflow_server import MLflowServer
from requests.adapters import HTTPAdapter
from test_hostile_tracking import serving
from test_tracking import ENDED, STARTED, STUDY, a_trial, wait_until

from scripts.faults.comparison import differences
from scripts.faults.hostile import WAYS, HostileProxy, Request, pass_on
from search.records import EpochResult, Reason, Role, TrialRecord
from search.tracking import Closing, Findings, TrackedStudy, process, retry
from search.tracking.messages import Ended, Lost, Notice, Opening, Written
from search.tracking.process import Courier, Inbox

CLOSING = Closing(False, ENDED, Findings(artifacts={"best.toml": b"x"}))


@pytest.fixture(autouse=True)
def as_in_the_tracking_process(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(HTTPAdapter, "send", HTTPAdapter.send)  # is put back
    monkeypatch.setattr(process, "_PAUSES", (0.1, 0.2, 0.4))
    for name, value in {"MAX_RETRIES": "0", "TIMEOUT": "15"}.items():
        monkeypatch.setenv(f"MLFLOW_HTTP_REQUEST_{name}", value)
    monkeypatch.setenv("MLFLOW_ALLOW_HTTP_REDIRECTS", "false")
    monkeypatch.chdir(tmp_path)


@pytest.fixture(scope="module")
def server(database: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[MLflowServer]:
    home = tmp_path_factory.mktemp("server")
    shutil.copy(database, home / "mlflow.db")
    server = MLflowServer(home)
    server.start()
    yield server
    server.kill()


@pytest.fixture
def study(request: pytest.FixtureRequest) -> TrackedStudy:
    """A study for this test alone."""
    return replace(STUDY, name=request.node.name.replace("[", " ").rstrip("]"), identity=request.node.name)


@contextmanager
def failing(server: MLflowServer, way: Callable[[Request], None], share: float = 0.3) -> Iterator[HostileProxy]:
    proxy = HostileProxy(server.port, way, random.Random(1), share)
    try:
        yield proxy
    finally:
        proxy.close()


def write(uri: str, study: TrackedStudy, messages: Sequence[Any], closing: Closing = CLOSING) -> list[Any]:
    """Do the tracking process's work, and return all that it reports."""
    reports: list[Any] = []
    Courier(Opening(uri, None, study, STARTED), Inbox(iter([*messages, closing])), reports.append).run()
    return reports


def of_kind(reports: list[Any], kind: type) -> list[Any]:
    return [report for report in reports if isinstance(report, kind)]


def some_trials() -> list[TrialRecord]:
    nan, inf = math.nan, math.inf
    odd = (EpochResult(1, 0.5, 0.7, 0.5, 0.0), EpochResult(2, inf, nan, nan, 0.0))
    return [
        a_trial(0, role=Role.BASELINE),
        a_trial(1, Reason.PRUNED),
        TrialRecord(2, {"l1": 0.5}, Reason.DIVERGED, odd, STARTED, STARTED),
    ]


@pytest.mark.parametrize("way", sorted(WAYS.keys() - {"slow", "busy"}))
def test_a_server_that_fails_on_three_requests_in_ten_gets_everything_once(
    server: MLflowServer, study: TrackedStudy, way: str
) -> None:
    trials = some_trials()
    with failing(server, WAYS[way]) as proxy:
        reports = write(proxy.uri, study, trials)
        assert proxy.failed
    assert of_kind(reports, Ended) == [Ended(None)]
    assert of_kind(reports, Notice) == []
    assert of_kind(reports, Written) == [Written(number) for number in range(3)]
    assert differences(server.uri, study.name, trials) == []
    assert Reader(server.uri, study.name).artifacts() == {"best.toml", "spec.json"}


def test_a_model_is_registered_once_on_a_server_that_fails_on_three_requests_in_ten(server: MLflowServer) -> None:
    import torch

    from search.tracking.registry import add_version

    model, example = torch.nn.Linear(4, 2), torch.zeros(2, 4)
    before = HTTPAdapter.send
    with failing(server, WAYS["errors"]) as proxy:
        version = add_version(proxy.uri, "registered", model, example, {"l1": 0.5}, {"test_loss": 0.25})
        assert proxy.failed
    assert version.startswith("models:/registered/")
    assert HTTPAdapter.send is before
    client = MlflowClient(server.uri)
    experiment = client.get_experiment_by_name("registered")
    assert experiment is not None
    [run] = client.search_runs([experiment.experiment_id])
    assert (run.info.status, run.data.params, run.data.metrics) == ("FINISHED", {"l1": "0.5"}, {"test_loss": 0.25})
    assert client.get_model_version("registered", version.rpartition("/")[2]).status == "READY"


class Meanwhile:
    """Messages to the tracking process, with something that is done once it has written the trials before."""

    def __init__(self, before: Sequence[TrialRecord], happens: Callable[[], object], after: Sequence[Any]) -> None:
        self.reports: list[Any] = []
        self._before, self._happens, self._after = before, happens, after

    def __iter__(self) -> Iterator[Any]:
        yield from self._before
        wait_until(lambda: len(of_kind(self.reports, Written)) == len(self._before))
        self._happens()
        yield from self._after

    def written(self, uri: str, study: TrackedStudy) -> list[Any]:
        Courier(Opening(uri, None, study, STARTED), Inbox(iter(self)), self.reports.append).run()
        return self.reports


@pytest.mark.parametrize("seconds", [-60, 60])
def test_a_study_that_two_processes_began_at_once_has_one_run_in_the_end(
    server: MLflowServer, study: TrackedStudy, seconds: int
) -> None:
    trials = [a_trial(0), a_trial(1), a_trial(2)]

    def another_begins() -> None:
        found = Reader(server.uri, study.name)
        [own] = found.studies
        started = own.info.start_time + 1000 * seconds
        other = found.client.create_run(found.experiment.experiment_id, started, own.data.tags)
        found.client.set_tag(found.trials[0].info.run_id, "mlflow.parentRunId", other.info.run_id)

    reports = Meanwhile(trials[:2], another_begins, [trials[2], CLOSING]).written(server.uri, study)
    assert of_kind(reports, Ended) == [Ended(None)]
    assert differences(server.uri, study.name, trials) == []
    [run] = Reader(server.uri, study.name).studies
    assert (run.info.status, run.data.params) == ("FINISHED", {"budget.trials": "4"})


def test_who_may_not_delete_runs_is_told_and_has_all_written(server: MLflowServer, study: TrackedStudy) -> None:
    def protected(request: Request) -> None:
        if request.path.endswith("runs/delete"):
            request.answer(403, b"Permission denied", "text/html")
        else:
            pass_on(request)

    trials = [a_trial(0), a_trial(1)]

    def a_second_run_appears() -> None:
        found = Reader(server.uri, study.name)
        found.client.create_run(found.experiment.experiment_id, tags=found.trials[0].data.tags)

    with failing(server, protected, 1.0) as proxy:
        reports = Meanwhile(trials[:1], a_second_run_appears, [trials[1], CLOSING]).written(proxy.uri, study)
    assert of_kind(reports, Ended) == [Ended(None)]
    [notice] = of_kind(reports, Notice)
    assert "refuses to delete a second run of trial 0 (HTTP 403" in notice.text
    found = differences(server.uri, study.name, trials)
    assert found[0] == "MLflow has trial 0 2 times"
    assert not [what for what in found if "trial 1" in what]


@pytest.mark.parametrize("what", ["study", "trial", "experiment"])
def test_what_is_deleted_by_hand_amid_a_search_costs_nothing_else(
    server: MLflowServer, study: TrackedStudy, what: str
) -> None:
    trials = [a_trial(0), a_trial(1), a_trial(2)]

    def somebody_deletes() -> None:
        found = Reader(server.uri, study.name)
        if what == "experiment":
            found.client.delete_experiment(found.experiment.experiment_id)
        else:
            found.client.delete_run((found.studies if what == "study" else found.trials)[0].info.run_id)

    reports = Meanwhile(trials[:2], somebody_deletes, [trials[2], CLOSING]).written(server.uri, study)
    assert of_kind(reports, Ended) == [Ended(None)]
    assert of_kind(reports, Lost) == []
    expected = ["MLflow has trial 0 0 times"] if what == "trial" else []
    assert differences(server.uri, study.name, trials) == expected


def test_trials_that_a_server_took_and_has_lost_are_reported_and_written_by_the_next_sync(
    server: MLflowServer, study: TrackedStudy
) -> None:
    trials = [a_trial(0), a_trial(1), a_trial(2)]

    def an_older_database_comes_back() -> None:
        found = Reader(server.uri, study.name)
        for run in (found.studies[0], found.trials[1]):
            found.client.set_tag(run.info.run_id, "regsearch.study_id", "not there")
            found.client.set_tag(run.info.run_id, "regsearch.kind", "nothing")

    reports = Meanwhile(trials[:2], an_older_database_comes_back, [trials[2], CLOSING]).written(server.uri, study)
    assert of_kind(reports, Lost) == [Lost(frozenset({1}))]
    assert of_kind(reports, Ended) == [Ended(None)]
    assert of_kind(write(server.uri, study, trials), Written)[1] == Written(1)
    assert differences(server.uri, study.name, trials) == []


def test_what_is_too_large_for_a_proxy_is_sent_in_parts(server: MLflowServer, study: TrackedStudy) -> None:
    def limited(request: Request) -> None:
        if len(request.body) > 3000:
            request.answer(413, b"<html>413 Request Entity Too Large</html>", "text/html")
        else:
            pass_on(request)

    trials = [a_trial(0, epochs=40)]
    with failing(server, limited, 1.0) as proxy:
        reports = write(proxy.uri, study, trials)
    assert of_kind(reports, Ended) == [Ended(None)]
    assert of_kind(reports, Notice) == []
    assert differences(server.uri, study.name, trials) == []


def test_what_a_server_refuses_is_named_and_the_rest_is_written(server: MLflowServer, study: TrackedStudy) -> None:
    def strict(request: Request) -> None:
        told = json.loads(request.body) if request.path.endswith("log-batch") else {}
        names = [entry["key"] for kind in ("params", "tags") for entry in told.get(kind, [])]
        steps = [(entry["key"], entry.get("step", 0)) for entry in told.get("metrics", [])]
        if "l1" in names or "regsearch.role" in names or ("gap", 2) in steps:
            request.answer(400, b'{"error_code": "INVALID_PARAMETER_VALUE", "message": "not here"}')
        else:
            pass_on(request)

    trials = [a_trial(0, role=Role.BASELINE), a_trial(1)]
    with failing(server, strict, 1.0) as proxy:
        reports = write(proxy.uri, study, trials)
    assert of_kind(reports, Ended) == [Ended(None)]
    assert of_kind(reports, Written) == [Written(0), Written(1)]
    [notice] = of_kind(reports, Notice)
    assert "refuses metric gap (INVALID_PARAMETER_VALUE: not here) of trial 0. All else is written" in notice.text
    assert differences(server.uri, study.name, trials) == [
        f"MLflow's trial {number} differs: {what}" for number in (1, 0) for what in ("params", "gap")
    ]
    found = Reader(server.uri, study.name)
    assert found.curve(0, "gap") == [(row.epoch, row.gap) for row in trials[0].epochs if row.epoch != 2]
    assert found.trials[0].data.params == {"dropout_0": "0.2"}


def test_a_trial_that_a_server_refuses_holds_up_no_other(server: MLflowServer, study: TrackedStudy) -> None:
    def strict(request: Request) -> None:
        if request.path.endswith("runs/create") and b"trial-0001" in request.body:
            request.answer(400, b'{"error_code": "INVALID_PARAMETER_VALUE", "message": "not this one"}')
        else:
            pass_on(request)

    with failing(server, strict, 1.0) as proxy:
        reports = write(proxy.uri, study, [a_trial(0), a_trial(1), a_trial(2)])
    assert of_kind(reports, Written) == [Written(0), Written(2)]
    assert "not this one" in of_kind(reports, Ended)[0].problem
    found = Reader(server.uri, study.name)
    assert found.studies[0].info.status == "FINISHED"
    assert {number_of(run) for run in found.trials if run.info.status == "FINISHED"} == {0, 2}


def test_an_answer_about_another_run_is_not_believed(server: MLflowServer, study: TrackedStudy) -> None:
    answers: list[tuple[int, bytes, str]] = []

    def mixed_up(request: Request) -> None:
        answer = request.passed_on()
        if request.path.endswith("runs/create"):
            answers.append(answer)
            if len(answers) == 3:  # the study's run, trial 0, trial 1
                answer = answers[1]
        request.answer(*answer)

    trials = [a_trial(0), a_trial(1), a_trial(2)]
    with failing(server, mixed_up, 1.0) as proxy:
        reports = write(proxy.uri, study, trials)
    assert of_kind(reports, Ended) == [Ended(None)]
    assert differences(server.uri, study.name, trials) == []


def test_files_that_a_server_does_not_take_hold_up_nothing_else(
    server: MLflowServer, study: TrackedStudy, monkeypatch: pytest.MonkeyPatch
) -> None:
    def without_files(request: Request) -> None:
        if request.command == "PUT":
            request.answer(500, b"{}")
        else:
            pass_on(request)

    monkeypatch.setattr(retry, "_SECONDS", 0.2)
    with failing(server, without_files, 1.0) as proxy:
        reports = write(proxy.uri, study, [a_trial(0)])
    [ended] = of_kind(reports, Ended)
    assert "spec.json could not be stored" in ended.problem or "best.toml could not be stored" in ended.problem
    assert Reader(server.uri, study.name).studies[0].info.status == "FINISHED"
    assert differences(server.uri, study.name, [a_trial(0)]) == []


def test_a_server_that_always_fails_is_given_up_soon(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(retry, "_SECONDS", 0.5)
    with serving(lambda request: request.send_error(500)) as (uri, asked):
        began = time.monotonic()
        [ended] = of_kind(write(uri, STUDY, [a_trial(0)]), Ended)
        assert time.monotonic() - began < 5
    assert "500" in ended.problem
    assert 2 <= len(asked) < 20


def test_a_server_that_refuses_the_credentials_is_asked_at_the_beginning_and_at_the_end_alone() -> None:
    with serving(lambda request: request.send_error(401)) as (uri, asked):
        reports: list[Any] = []

        def messages() -> Iterator[Any]:
            yield a_trial(0)
            wait_until(lambda: bool(of_kind(reports, Notice)))
            yield a_trial(1)
            time.sleep(0.5)
            assert len(asked) == 1
            yield CLOSING

        Courier(Opening(uri, None, STUDY, STARTED), Inbox(messages()), reports.append).run()
        assert len(asked) == 2
    [notice], [ended] = of_kind(reports, Notice), of_kind(reports, Ended)
    assert "HTTP 401 Unauthorized: the server refuses the credentials, or they lack a permission" in notice.text
    assert "MLflow is tried once more at its end" in notice.text
    assert "HTTP 401" in ended.problem


def test_a_server_that_asks_for_a_long_pause_is_left_alone_and_its_wish_is_told() -> None:
    with serving(_busy_for("120")) as (uri, asked):
        began = time.monotonic()
        [ended] = of_kind(write(uri, STUDY, [a_trial(0)]), Ended)
        assert time.monotonic() - began < 5
    assert ended.problem == "HTTP 429: the server is to be asked again in 120 s"
    assert len(asked) == 1


def _busy_for(seconds: str) -> Callable[[BaseHTTPRequestHandler], None]:
    def answer(request: BaseHTTPRequestHandler) -> None:
        request.send_response(429)
        request.send_header("Retry-After", seconds)
        request.send_header("Content-Length", "0")
        request.end_headers()

    return answer


def _after(failures: int, first: Callable[[BaseHTTPRequestHandler], None]) -> Callable[[BaseHTTPRequestHandler], None]:
    """Answer the first requests like this, and the others well, with what was sent."""
    count = 0

    def answer(request: BaseHTTPRequestHandler) -> None:
        nonlocal count
        count += 1
        body = request.rfile.read(int(request.headers.get("Content-Length") or 0))
        if count <= failures:
            first(request)
            return
        request.send_response(200)
        request.send_header("Content-Length", str(len(body)))
        request.end_headers()
        request.wfile.write(body)

    return answer


def _repeated(uri: str) -> retry.RepeatedRequests:
    layer = retry.RepeatedRequests(uri, lambda: None)
    layer.install()
    return layer


def test_a_server_s_wish_for_a_pause_is_heeded() -> None:
    with serving(_after(1, _busy_for("1"))) as (uri, asked):
        layer, began = _repeated(uri), time.monotonic()
        assert requests.get(f"{uri}/x", timeout=5).status_code == 200
        assert time.monotonic() - began >= 1.0
    assert (len(asked), layer.answers) == (2, 1)


@pytest.mark.parametrize("status", [408, 425, 429, 500, 502, 503, 504])
def test_a_file_that_is_sent_again_is_sent_whole(status: int, tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"0123456789" * 1000)
    with serving(_after(2, lambda request: request.send_error(status))) as (uri, asked):
        _repeated(uri)
        with open(tmp_path / "file", "rb") as file:
            answer = requests.post(f"{uri}/file", data=file, timeout=5)
    assert answer.content == (tmp_path / "file").read_bytes()
    assert len(asked) == 3


@pytest.mark.parametrize("status", [400, 403, 404, 413, 501])
def test_requests_to_other_servers_are_sent_once(status: int) -> None:
    with serving(lambda request: request.send_error(status)) as (uri, asked):
        _repeated("http://127.0.0.1:1")
        assert requests.get(uri, timeout=5).status_code == status
    assert len(asked) == 1


def test_a_repeated_creation_of_a_run_is_counted_since_it_may_have_made_two() -> None:
    with serving(_after(1, lambda request: request.send_error(503))) as (uri, _):
        layer = _repeated(uri)
        requests.post(f"{uri}/api/2.0/mlflow/runs/create", json={"a": 1}, timeout=5)
        requests.post(f"{uri}/api/2.0/mlflow/runs/create", json={"a": 1}, timeout=5)
    assert layer.creations == 1
