"""`regsearch ui` and what it shows: both servers answer, end together, let in nobody else, and show a study truly."""

import json
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from conftest import regsearch

from search.dashboards.content import NoticeBoard, annotate
from search.dashboards.curves import curves_svg
from search.dashboards.optuna_app import Door, Doorman
from search.dashboards.servers import choose_port
from search.dashboards.ui import Wanted, dashboards
from search.errors import DashboardError, UsageError
from search.places import artifact_folder
from search.records import EpochResult, Reason, TrialRecord
from search.report import gather
from search.study import Study, open_storage
from search.study.annotations import Annotations, artifact_store

COMMAND = [sys.executable, "-P", "-c", "from search.cli import main; main()"]
LOCAL = ["localhost", "127.0.0.1", "::1"]


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as server:
        return server.getsockname()[1]


@contextmanager
def running_ui(folder: Path, *options: str) -> Iterator[tuple[subprocess.Popen, str, str]]:
    """Run `regsearch ui` and wait for its two links; it is killed if it has not ended by itself."""
    ports = ["--port", str(free_port()), "--mlflow-port", str(free_port())]
    process = subprocess.Popen(
        [*COMMAND, "ui", "--home", str(folder / "runs"), *ports, *options],
        cwd=folder,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    try:
        lines = [process.stdout.readline(), process.stdout.readline()]
        links = [found[0] for line in lines if (found := re.search(r"http://\S+", line))]
        assert len(links) == 2, (lines, process.communicate(timeout=60)[1])
        yield process, *links
    finally:
        process.kill()
        process.communicate()


@pytest.fixture(scope="module")
def ui(searched) -> Iterator[tuple[str, str]]:
    """The addresses of optuna-dashboard and MLflow's UI on a study that has been searched and confirmed."""
    with running_ui(searched) as (process, optuna, mlflow):
        yield optuna.removesuffix("/dashboard"), mlflow
        process.send_signal(signal.SIGINT)
        assert process.wait(30) == 0


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


def get(url: str, **headers: str) -> str:
    with urllib.request.urlopen(urllib.request.Request(url, headers=headers), timeout=30) as answer:
        return answer.read().decode()


def refusal(url: str, **headers: str) -> int:
    """Return the status with which a request is refused."""
    with pytest.raises(urllib.error.HTTPError) as refused:
        get(url, **headers)
    with refused.value as answer:
        return answer.code


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
        optuna, mlflow = ui
        assert "tiny" in get(f"{optuna}/api/studies")
        assert get(f"{mlflow}/health") == "OK"

    def test_requests_that_call_them_by_another_name_are_refused(self, ui):
        for address in (f"{ui[0]}/api/studies", f"{ui[1]}/api/2.0/mlflow/experiments/search?max_results=5"):
            assert refusal(address, Host="evil.example") == 403

    def test_the_dashboard_leads_to_report_and_runs(self, ui, searched):
        optuna, _ = ui
        assert (
            get(f"{optuna}/regsearch/report?study=tiny") == (searched / "runs/artifacts/tiny/report.html").read_text()
        )
        with urllib.request.urlopen(f"{optuna}/regsearch/mlflow?study=tiny", timeout=30) as answer:
            assert re.search(r"#/experiments/\d+/runs\?", answer.url)

    @pytest.mark.parametrize("study", ["nothing", "../../optuna.journal", "..%2f..", ""])
    def test_there_is_no_way_out_of_the_home(self, ui, study):
        assert refusal(f"{ui[0]}/regsearch/report?study={study}") == 404

    @pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
    def test_a_signal_ends_both_and_leaves_no_process(self, searched, number):
        with running_ui(searched) as (process, _, _):
            processes = descendants_of(process.pid)
            assert len(processes) >= 3  # MLflow's server has one of its own
            process.send_signal(number)
            assert process.wait(30) == 0
            assert gone(processes)

    def test_killed_it_leaves_no_process_either(self, searched):
        with running_ui(searched) as (process, _, _):
            processes = descendants_of(process.pid)
            process.kill()
            assert gone(processes)

    def test_when_one_dies_the_other_ends_and_the_user_is_told(self, searched):
        with running_ui(searched) as (process, _, _):
            processes = descendants_of(process.pid)
            [child] = [
                pid
                for pid in children_of(process.pid)
                if "leash" in command_of(pid) and "mlflow" not in command_of(pid)
            ]
            os.kill(child, signal.SIGKILL)
            assert process.wait(30) == 1
            assert "has ended" in process.stderr.read()
            assert gone(processes)


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
            assert choose_port("127.0.0.1", None, taken.getsockname()[1]) != taken.getsockname()[1]

    def test_an_address_of_another_machine(self):
        with pytest.raises(DashboardError, match=r"192\.0\.2\.1 cannot be listened on"):
            choose_port("192.0.2.1", None, 8080)

    @pytest.mark.parametrize("host", ["0.0.0.0", "192.168.1.2", "example.org", "::"])
    def test_other_machines_are_kept_out_unless_that_is_said(self, host, searched):
        told = regsearch("ui", "--home", str(searched / "runs"), "--host", host, code=2)
        assert "optuna-dashboard has no login" in told
        assert "--allow-anyone" in told

    def test_an_unreachable_database(self, tmp_path):
        url = f"postgresql+psycopg://me:secret@127.0.0.1:{free_port()}/none"
        told = regsearch("ui", "--home", str(tmp_path), "--storage", url, code=1)
        assert "127.0.0.1" in told
        assert "secret" not in told

    def test_an_unreachable_database_of_mlflow(self, searched):
        uri = f"postgresql+psycopg://me:secret@127.0.0.1:{free_port()}/none"
        told = regsearch("ui", "--home", str(searched / "runs"), "--tracking-uri", uri, code=1)
        assert "MLflow's UI has ended" in told
        assert "secret" not in told

    def test_a_tracking_server_shows_its_runs_itself(self, searched):
        wanted = Wanted(searched / "runs", tracking_uri="http://me:secret@127.0.0.1:9/", port=free_port())
        with dashboards(wanted, lambda: False) as running:
            assert len(running.servers) == 1
            assert running.mlflow == "http://***@127.0.0.1:9"

    def test_passwords_stand_in_no_argument_and_in_no_link(self, searched):
        wanted = Wanted(searched / "runs", tracking_uri=f"http://me:hunter2@127.0.0.1:{free_port()}", port=free_port())
        with dashboards(wanted, lambda: False) as running:
            listing = subprocess.run(["ps", "-wwwweo", "args"], capture_output=True, text=True, check=True).stdout
            assert "hunter2" not in listing + running.mlflow
            opener = urllib.request.build_opener(NoRedirect)
            with pytest.raises(urllib.error.HTTPError) as led:
                opener.open(running.optuna.replace("/dashboard", "/regsearch/mlflow?study=tiny"), timeout=60)
            with led.value as answer:
                assert "hunter2" not in answer.headers["Location"]

    def test_each_server_has_a_port_of_its_own(self, searched):
        port = str(free_port())
        told = regsearch("ui", "--home", str(searched / "runs"), "--port", port, "--mlflow-port", port, code=2)
        assert "each server needs one of its own" in told

    @pytest.mark.parametrize("host", ["::1", "localhost"])
    def test_other_names_of_this_machine(self, searched, host, monkeypatch):
        # A proxy for the rest of the world has no say in what is on this machine.
        monkeypatch.setenv("http_proxy", "http://127.0.0.1:9")
        if host == "::1" and not has_ipv6():
            pytest.skip("this machine has no IPv6")
        with dashboards(
            Wanted(searched / "runs", host=host, tracking_uri="http://127.0.0.1:9"), lambda: False
        ) as running:
            opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
            with opener.open(running.optuna, timeout=30) as answer:
                assert answer.status == 200

    def test_a_stop_while_they_start_ends_them(self, searched):
        wanted = Wanted(searched / "runs", port=free_port(), mlflow_port=free_port())
        before = descendants_of(os.getpid())
        with dashboards(wanted, lambda: True):
            processes = [pid for pid in descendants_of(os.getpid()) if pid not in before and "leash" in command_of(pid)]
            assert len(processes) == 2
        assert gone(processes)


class TestDoorman:
    @pytest.fixture
    def ask(self, tmp_path):
        from werkzeug.test import Client

        def passed_on(_environ, start_response):
            start_response("200 OK", [])
            return [b"passed on"]

        door = Door(str(tmp_path), None, "127.0.0.1", 1, LOCAL, "")
        return lambda path, host: Client(Doorman(passed_on, door, None)).get(path, headers={"Host": host})

    @pytest.mark.parametrize("host", ["localhost", "127.0.0.1:8080", "LOCALHOST:8080", "[::1]:8080"])
    def test_lets_its_own_names_in(self, ask, host):
        assert ask("/", host).text == "passed on"

    @pytest.mark.parametrize(
        "host", ["evil.example", "127.0.0.1.evil.example", "localhost.evil.example:8080", "10.evil.example", "[::", ""]
    )
    def test_lets_no_other_name_in(self, ask, host):
        assert ask("/", host).status_code == 403

    def test_says_that_there_is_no_mlflow(self, ask):
        assert ask("/regsearch/mlflow?study=tiny", "localhost").status_code == 404


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
        assert f"Best so far: trial {number}, validation loss 0.6000, after 1 of 6 trials" in note_of(study)

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


class TestInABrowser:
    def test_optuna_dashboard_shows_study_trials_note_and_plots(self, ui, searched, browser):
        with browser.new_context() as context:
            page = context.new_page()
            page.goto(f"{ui[0]}/dashboard")
            page.get_by_text("tiny").first.click()
            page.wait_for_url("**/studies/0")
            page.get_by_role("heading", name="Hyperparameter Importance").wait_for()
            # The report's plots, drawn: their titles are text inside the plots.
            page.locator("text.gtitle", has_text="What ran when, and why it ended").first.wait_for()
            page.goto(f"{ui[0]}/dashboard/studies/0/note")
            page.get_by_text("regsearch show --study tiny").wait_for()
            assert page.get_by_role("img", name="learning curves").evaluate("image => image.naturalWidth") > 0
            best = summary(searched)["confirmed"]["best"]["trial"]
            page.goto(f"{ui[0]}/dashboard/studies/0/trials?numbers={best}")
            page.get_by_text(f"Trial {best} (trial_id=").wait_for()
            page.get_by_text("Over 2 seeds").wait_for()
            page.get_by_text("curves.svg").first.wait_for()

    def test_its_links_lead_to_the_report_and_to_the_runs(self, ui, browser):
        with browser.new_context() as context:
            page = context.new_page()
            page.goto(f"{ui[0]}/dashboard/studies/0/note")
            page.get_by_role("link", name="The report").click()
            page.wait_for_selector("html[data-drawn=all]")
            page.go_back()
            page.get_by_role("link", name="Its runs in MLflow").click()
            page.wait_for_url("**/#/experiments/*/runs*")

    def test_mlflow_lists_parent_and_children(self, ui, searched, browser):
        with browser.new_context(viewport={"width": 1600, "height": 1000}) as context:
            page = context.new_page()
            page.goto(f"{ui[0]}/regsearch/mlflow?study=tiny")
            study = page.get_by_role("row").filter(has_text=re.compile(r"tiny: confirmed \d\.\d+"))
            study.first.wait_for()
            study.get_by_role("button").first.click()  # its trials unfold
            for number in range(6):
                page.get_by_text(re.compile(rf"^trial-{number:04d} ")).first.wait_for()

    def test_the_saved_comparison_is_of_best_pick_and_baseline(self, ui, searched, browser):
        confirmed = summary(searched)["confirmed"]
        with browser.new_context(viewport={"width": 1600, "height": 1600}) as context:
            page = context.new_page()
            page.goto(f"{ui[0]}/regsearch/compare?study=tiny")
            page.wait_for_url("**/#/compare-runs*")
            for which in ("best", "one_standard_error", "baseline"):
                name = re.compile(rf"^trial-{confirmed[which]['trial']:04d} ")
                page.get_by_text(name).first.wait_for()

    def test_mlflow_compares_params_and_curves_of_three_runs(self, ui, browser):
        found = json.loads(get(f"{ui[1]}/api/2.0/mlflow/experiments/get-by-name?experiment_name=tiny"))
        experiment = found["experiment"]["experiment_id"]
        runs = trials_of(ui[1], experiment)[:3]
        with browser.new_context(viewport={"width": 1600, "height": 1600}) as context:
            page = context.new_page()
            page.goto(f"{ui[1]}/#/compare-runs?runs={json.dumps(runs)}&experiments={json.dumps([experiment])}")
            for text in ("weight_decay", "best_val_loss"):
                page.get_by_text(text, exact=True).first.wait_for()
            page.get_by_role("link", name="val_loss", exact=True).click()
            page.locator(".js-plotly-plot .scatterlayer .trace").first.wait_for()
            drawn = page.evaluate("document.querySelector('.js-plotly-plot').data.map(trace => trace.name)")
            assert len(set(drawn)) == len(runs)


def trials_of(mlflow: str, experiment: str) -> list[str]:
    """Return the ids of the trials' runs."""
    wanted = {"experiment_ids": [experiment], "filter": "tags.`regsearch.kind` = 'trial'"}
    body, kind = json.dumps(wanted).encode(), {"Content-Type": "application/json"}
    with urllib.request.urlopen(
        urllib.request.Request(f"{mlflow}/api/2.0/mlflow/runs/search", body, kind), timeout=30
    ) as answer:
        return [run["info"]["run_id"] for run in json.load(answer)["runs"]]
