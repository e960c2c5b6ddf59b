"""`regsearch ui` and what it shows: both servers answer, end together, let in nobody else, and show a study truly."""

import json
import os
import re
import shutil
import signal
import socket
import subprocess
import time
import urllib.error
import urllib.request
import urllib.response
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from conftest import regsearch
from dashboard_server import RunningUi, ending_tidily, free_port, running_ui

from search.dashboards.content import NoticeBoard, annotate
from search.dashboards.curves import curves_svg
from search.dashboards.servers import listen
from search.dashboards.ui import Dashboards, Wanted, dashboards, openable, read_token
from search.errors import DashboardError, UsageError
from search.places import artifact_folder
from search.records import EpochResult, Reason, TrialRecord
from search.report import gather
from search.study import Study, open_storage
from search.study.annotations import Annotations, artifact_store


@pytest.fixture(scope="module")
def ui(searched) -> Iterator[RunningUi]:
    """The dashboards of a study that has been searched and confirmed."""
    with ending_tidily(searched) as running:
        yield running


def ask(running: Dashboards, path: str) -> urllib.response.addinfourl:
    """Ask dashboards that run in this process, and follow no redirect."""
    request = urllib.request.Request(running.address + path, headers={"Authorization": f"Bearer {running.token}"})
    try:
        return urllib.request.build_opener(NoRedirect, urllib.request.ProxyHandler({})).open(request, timeout=60)
    except urllib.error.HTTPError as answer:
        return answer


class NoRedirect(urllib.request.HTTPRedirectHandler):
    """Raises HTTPError where a server leads elsewhere."""

    def redirect_request(self, *_arguments: object) -> None:
        return None


def has_ipv6() -> bool:
    try:
        socket.create_server(("::1", 0), family=socket.AF_INET6).close()
    except OSError:
        return False
    return True


def summary(folder: Path) -> dict:
    return json.loads(regsearch("show", "--study", "tiny", "--home", str(folder / "runs"), "--json"))


def children_of(parent: int) -> list[int]:
    listing = subprocess.run(["ps", "-eo", "pid,ppid"], capture_output=True, text=True, check=True).stdout
    return [int(pid) for pid, of in map(str.split, listing.splitlines()[1:]) if int(of) == parent]


def command_of(pid: int) -> str:
    try:
        return Path(f"/proc/{pid}/cmdline").read_text()
    except OSError:  # it has ended
        return ""


def descendants_of(parent: int) -> list[int]:
    return [pid for child in children_of(parent) for pid in (child, *descendants_of(child))]


def gone(processes: list[int], seconds: float = 20) -> bool:
    """Return whether all of these have ended, or do so soon."""
    deadline = time.monotonic() + seconds
    while any(Path(f"/proc/{pid}").exists() for pid in processes):
        if time.monotonic() > deadline:
            return False
        time.sleep(0.1)
    return True


class TestServers:
    def test_both_answer(self, ui):
        assert "tiny" in ui.ask("/api/studies").text
        found = ui.ask("/mlflow/ajax-api/2.0/mlflow/experiments/get-by-name?experiment_name=tiny").text
        assert json.loads(found)["experiment"]["name"] == "tiny"

    def test_requests_that_call_them_by_another_name_are_refused(self, ui):
        for path in ("/api/studies", "/mlflow/ajax-api/2.0/mlflow/experiments/search?max_results=5", "/nothing"):
            assert ui.ask(path, Host="evil.example").status == 403

    def test_the_dashboard_leads_to_report_and_runs(self, ui, searched):
        report = (searched / "runs/artifacts/tiny/report.html").read_text()
        assert ui.ask("/regsearch/report?study=tiny").text == report
        leads = ui.ask("/regsearch/mlflow?study=tiny").headers["Location"]
        assert re.match(r"/mlflow/#/experiments/\d+/runs\?workflowType=machine_learning$", leads)

    @pytest.mark.parametrize("study", ["nothing", "../../optuna.journal", "..%2f..", ""])
    def test_there_is_no_way_out_of_the_home(self, ui, study):
        assert ui.ask(f"/regsearch/report?study={study}").status == 404

    @pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
    def test_a_signal_ends_both_and_leaves_no_process(self, searched, number):
        with running_ui(searched) as ui:
            processes = descendants_of(ui.process.pid)
            assert len(processes) == 1
            ui.process.send_signal(number)
            assert ui.process.wait(30) == 0
            assert gone(processes)

    def test_killed_it_leaves_no_process_either(self, searched):
        with running_ui(searched) as ui:
            processes = descendants_of(ui.process.pid)
            ui.process.kill()
            assert gone(processes)

    def test_when_their_server_dies_the_user_is_told(self, searched):
        with running_ui(searched) as ui:
            [child] = descendants_of(ui.process.pid)
            os.kill(child, signal.SIGKILL)
            assert ui.process.wait(30) == 1
            assert "has ended" in ui.process.stderr.read()
            assert gone([child])


class TestErrors:
    def test_a_missing_home(self, tmp_path):
        assert "holds no studies yet" in regsearch("ui", "--home", str(tmp_path / "none"), code=2)
        assert not (tmp_path / "none").exists()

    def test_a_port_in_use(self, searched):
        with socket.create_server(("127.0.0.1", 0)) as taken:
            port = str(taken.getsockname()[1])
            told = regsearch("ui", "--home", str(searched / "runs"), "--port", port, code=1)
        assert f"port {port} of 127.0.0.1 cannot be used (Address already in use)" in told
        assert "choose another" in told

    def test_without_a_wish_a_port_in_use_is_passed_over(self):
        with socket.create_server(("127.0.0.1", 0)) as taken:
            usual = taken.getsockname()[1]
            with listen("127.0.0.1", None, usual) as other:
                assert other.getsockname()[1] != usual

    def test_the_port_is_taken_at_once_and_nobody_else_can_take_it(self):
        with listen("127.0.0.1", None, 8080) as taken, pytest.raises(DashboardError, match="in use"):
            listen("127.0.0.1", taken.getsockname()[1], 8080)

    def test_an_address_of_another_machine(self):
        with pytest.raises(DashboardError, match=r"192\.0\.2\.1 cannot be listened on"):
            listen("192.0.2.1", None, 8080)

    @pytest.mark.parametrize("host", ["0.0.0.0", "192.168.1.2", "example.org", "::"])
    def test_other_machines_are_kept_out_unless_that_is_said(self, host, searched):
        told = regsearch("ui", "--home", str(searched / "runs"), "--host", host, code=2)
        assert "nothing is encrypted" in told
        assert "--allow-anyone" in told

    def test_an_unreachable_database(self, tmp_path):
        url = f"postgresql+psycopg://me:secret@127.0.0.1:{free_port()}/none"
        told = regsearch("ui", "--home", str(tmp_path), "--storage", url, code=1)
        assert "127.0.0.1" in told
        assert "secret" not in told

    def test_an_unreachable_database_of_mlflow(self, searched):
        uri = f"postgresql+psycopg://me:secret@127.0.0.1:{free_port()}/none"
        told = regsearch("ui", "--home", str(searched / "runs"), "--tracking-uri", uri, code=1)
        assert "The server of the dashboards has ended" in told
        assert "secret" not in told

    def test_a_tracking_server_shows_its_runs_itself_and_its_password_is_shown_nowhere(self, searched):
        """No MLflow is started. The link to the server has no password, and no argument of any process has."""
        uri = f"http://me:hunter2@127.0.0.1:{free_port()}/"
        with dashboards(Wanted(searched / "runs", tracking_uri=uri, port=free_port()), lambda: False) as running:
            assert running.mlflow == uri.replace("me:hunter2", "***").rstrip("/")
            listing = subprocess.run(["ps", "-wwwweo", "args"], capture_output=True, text=True, check=True).stdout
            assert "hunter2" not in listing
            assert ask(running, "/mlflow/").code == 404
            leads = ask(running, "/regsearch/mlflow?study=tiny").headers["Location"]
            assert leads.startswith(f"{uri.replace('me:hunter2@', '')}#/experiments?workflowType=machine_learning")

    @pytest.mark.parametrize("host", ["::1", "localhost"])
    def test_other_names_of_this_machine(self, searched, host, monkeypatch):
        # A proxy for the rest of the world has no say in what is on this machine.
        monkeypatch.setenv("http_proxy", "http://127.0.0.1:9")
        if host == "::1" and not has_ipv6():
            pytest.skip("this machine has no IPv6")
        wanted = Wanted(searched / "runs", host=host, tracking_uri="http://127.0.0.1:9", port=free_port())
        with dashboards(wanted, lambda: False) as running:
            assert ask(running, "/api/meta").code == 200

    def test_a_stop_while_they_start_ends_them(self, searched):
        wanted = Wanted(searched / "runs", port=free_port())
        before = descendants_of(os.getpid())
        with dashboards(wanted, lambda: True):
            processes = [pid for pid in descendants_of(os.getpid()) if pid not in before and "leash" in command_of(pid)]
            assert len(processes) == 1
        assert gone(processes)


class TestToken:
    @pytest.fixture
    def token_file(self, tmp_path) -> Path:
        (tmp_path / "token").write_text("0123456789-abcdef\n")
        (tmp_path / "token").chmod(0o600)
        return tmp_path / "token"

    def test_it_may_be_one_s_own_in_a_file(self, token_file):
        assert read_token(token_file) == "0123456789-abcdef"

    def test_a_file_that_others_can_read_is_refused(self, token_file):
        token_file.chmod(0o640)
        with pytest.raises(UsageError, match="chmod 600"):
            read_token(token_file)

    @pytest.mark.parametrize("text", ["", "short", "0123456789 abcdef", "ä" * 20, "x" * 2000, "0123456789abcdef\nx"])
    def test_one_that_is_short_or_has_other_characters_is_refused(self, token_file, text):
        token_file.write_text(text)
        with pytest.raises(UsageError, match=r"16 to 256|at most 1,024"):
            read_token(token_file)

    def test_a_missing_file_is_told(self, tmp_path):
        with pytest.raises(UsageError, match="No such file"):
            read_token(tmp_path / "none")

    def test_without_a_file_it_is_a_new_one_each_time(self, ui):
        assert len(ui.token) >= 32
        assert ui.token in ui.mlflow

    def test_browsers_are_opened_by_files_of_their_user_alone(self):
        """A browser's command line, which all users of a machine can read, names no token."""
        with openable("http://127.0.0.1:1/x?token=a&b", "http://127.0.0.1:1/y#z") as files:
            assert [Path(file).parent.stat().st_mode & 0o777 for file in files] == [0o700] * 2
            assert "url=http://127.0.0.1:1/x?token=a&amp;b" in Path(files[0]).read_text()
        assert not Path(files[0]).exists()


def shown(folder: Path) -> dict:
    """Return what optuna-dashboard gives its page to show of the first study."""
    return _shown(open_storage(None, folder / "runs"), artifact_folder(folder / "runs", "optuna"))


def detail_of(study: Study) -> dict:
    return _shown(study._storage, None)


def _shown(storage, folder: Path | None) -> dict:
    from optuna_dashboard import wsgi
    from werkzeug.test import Client

    client = Client(wsgi(storage, artifact_store(folder) if folder is not None else None))
    return client.get("/api/studies/0").json | {"client": client}


class TestContent:
    def test_the_study_s_note_tells_the_verdict_and_what_was_searched(self, searched):
        note = shown(searched)["note"]["body"]
        assert "2 seeds" in note
        assert "| weight_decay | 1e-06 to 0.1, logarithmic |" in note
        assert "regsearch show --study tiny" in note
        assert "/regsearch/report?study=tiny" in note

    def test_trials_worth_opening_have_a_note_and_their_curves(self, searched):
        detail, confirmed = shown(searched), summary(searched)["confirmed"]
        for which in ("best", "one_standard_error", "baseline"):
            trial = next(t for t in detail["trials"] if t["number"] == confirmed[which]["trial"])
            assert "Over 2 seeds" in trial["note"]["body"]
            [curves] = trial["artifacts"]
            assert curves["filename"] == "curves.svg"
            path = re.search(r"\]\((/artifacts/\S+)\)", trial["note"]["body"])[1]
            with detail["client"].get(path) as picture:
                assert b"<svg" in picture.data

    def test_plots_of_the_report_are_the_study_s_plots(self, searched):
        plots = {plot["id"]: json.loads(plot["graph_object"]) for plot in shown(searched)["plotly_graph_objects"]}
        assert {
            "regsearch-life",
            "regsearch-cost",
            "regsearch-curves-best",
            "regsearch-confirmed-val-loss",
        } <= plots.keys()
        assert not any(name.removeprefix("regsearch-").startswith(("history", "slice")) for name in plots)
        assert "@" not in json.dumps([plot["layout"] for plot in plots.values()])

    def test_user_attributes_are_those_that_the_docs_tell_of(self, searched):
        page = (Path(__file__).parent.parent / "docs" / "files.md").read_text()
        names = {attribute["key"] for trial in shown(searched)["trials"] for attribute in trial["user_attrs"]}
        assert {"reason", "config", "gap"} <= names <= set(re.findall(r"`(\w+)`", page))

    def test_writing_it_again_changes_nothing(self, searched):
        journal = searched / "runs" / "optuna.journal"
        study = Study.load("tiny", open_storage(None, searched / "runs"))
        annotate(study, gather(study), searched / "runs")
        before = journal.read_bytes()
        annotate(study, gather(study), searched / "runs")
        assert journal.read_bytes() == before

    def test_what_a_person_wrote_stays(self, study):
        study.annotations.note("ours")
        study.annotations.note("ours too")
        assert note_of(study) == "ours too"
        write_by_hand(study, "mine")
        study.annotations.note("ours again")
        assert note_of(study) == "mine"

    def test_a_note_that_a_person_emptied_stays_empty(self, study):
        study.annotations.note("ours")
        write_by_hand(study, "")
        study.annotations.note("ours again")
        assert note_of(study) == ""

    def test_a_trial_that_is_no_longer_the_best_loses_its_note(self, study):
        numbers = [study.ask().number for _ in range(3)]
        for number in numbers:
            study.annotations.note(f"trial {number}", number)
        study.annotations.drop_notes([numbers[1]])
        details = detail_of(study)["trials"]
        assert [details[number]["note"]["body"] for number in numbers] == ["", "trial 1", ""]

    def test_a_plot_of_ours_that_is_not_made_any_more_goes_away(self, searched, tmp_path):
        shutil.copytree(searched / "runs", tmp_path / "runs")
        opened = Study.load("tiny", open_storage(None, tmp_path / "runs"))
        opened.annotations.plot("regsearch-old", {"data": [1], "layout": {}})
        opened.annotations.plot("mine", {"data": [1], "layout": {}})
        annotate(opened, gather(opened), tmp_path / "runs")
        plots = {plot["id"]: json.loads(plot["graph_object"]) for plot in shown(tmp_path)["plotly_graph_objects"]}
        assert plots["regsearch-old"]["data"] == []
        assert plots["mine"]["data"] == [1]

    def test_a_note_that_cannot_be_written_costs_no_search(self, study, monkeypatch):
        def refuse(*_arguments):
            raise OSError("no note today")

        monkeypatch.setattr(Annotations, "note", refuse)
        study.on_end = NoticeBoard(study).ended
        number = study.ask().number
        assert study.finish(number, Reason.COMPLETED, [EpochResult(1, 0.5, 0.6, 0.8, 0.0)]).number == number

    def test_a_shorter_note_replaces_a_longer_one(self, study):
        study.annotations.note("x" * 5000)
        study.annotations.note("y" * 3000)
        study.annotations.note("z")
        assert note_of(study) == "z"

    def test_the_note_keeps_up_with_the_search(self, study):
        study.on_end = NoticeBoard(study).ended
        assert "No trial is complete yet, after 0 of 6 trials" in note_of(study)
        number = study.ask().number
        epoch = EpochResult(1, 0.5, 0.6, 0.8, 0.0)
        study.report({number: epoch})
        study.finish(number, Reason.COMPLETED, [epoch])
        NoticeBoard(study)
        name = f"no regularization (the baseline, trial {number})"
        assert f"Best so far: {name}, validation loss 0.6000, after 1 of 6 trials" in note_of(study)
        number = study.ask().number
        study.report({number: replace(epoch, val_loss=0.5)})
        study.finish(number, Reason.COMPLETED, [replace(epoch, val_loss=0.5)])
        NoticeBoard(study)
        assert f"Best so far: trial {number}, validation loss 0.5000, after 2 of 6 trials" in note_of(study)

    @pytest.mark.parametrize("losses", [[1.0], [2.0, 1.0], [float("nan")], [100.0, float("inf"), 0.1], []])
    def test_curves_are_drawn_whatever_they_are(self, losses):
        from datetime import UTC, datetime

        rows = tuple(EpochResult(i, loss, loss, 0.5, 0.0) for i, loss in enumerate(losses, 1))
        moment = datetime(2026, 1, 1, tzinfo=UTC)
        assert b"<svg" in curves_svg(TrialRecord(0, {}, Reason.COMPLETED, rows, moment, moment), "Trial 0")


@pytest.fixture
def study(tmp_path) -> Iterator[Study]:
    from conftest import SPEC

    from search.spec import load_spec

    (tmp_path / "tiny.toml").write_text(SPEC)
    opened = Study.open("tiny", load_spec(str(tmp_path / "tiny.toml")), open_storage(None, tmp_path), tmp_path)
    yield opened
    opened.close()


def note_of(study: Study) -> str:
    import optuna
    from optuna_dashboard import get_note

    return get_note(optuna.load_study(study_name=study.name, storage=study._storage))


def write_by_hand(study: Study, text: str) -> None:
    import optuna
    from optuna_dashboard import save_note

    save_note(optuna.load_study(study_name=study.name, storage=study._storage), text)


def test_an_error_names_what_cannot_be_served(tmp_path):
    with pytest.raises(UsageError, match="--allow-anyone"), dashboards(Wanted(tmp_path, host="0.0.0.0"), lambda: False):
        pass
