"""Both dashboards in a real browser, behind the guard: what people look at is there, and no other page gets in."""

import json
import re
import shutil
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread
from urllib.parse import urlsplit

import pytest
from conftest import regsearch
from dashboard_server import RunningUi, ending_tidily

from search.dashboards.ui import openable
from search.tracking import default_tracking_uri

SIZE = {"width": 1600, "height": 1600}


@pytest.fixture(scope="module")
def ui(searched, tmp_path_factory) -> Iterator[RunningUi]:
    """The dashboards of a study that has been searched and confirmed, and whose best has been registered."""
    from mlflow.tracking import MlflowClient

    folder = tmp_path_factory.mktemp("registered")
    shutil.copytree(searched / "runs", folder / "runs")
    client = MlflowClient(default_tracking_uri(folder / "runs"))
    experiment = client.get_experiment_by_name("tiny").experiment_id
    [run] = client.search_runs([experiment], "tags.`regsearch.kind` = 'study'")
    client.create_registered_model("tiny-model", description="The best of a tiny study")
    client.create_model_version("tiny-model", f"{run.info.artifact_uri}/model", run.info.run_id)
    with ending_tidily(folder) as running:
        yield running


@pytest.fixture
def page(ui, browser):
    """A page of a browser that has opened the link to optuna-dashboard, and notes what is asked of other servers."""
    with browser.new_context(viewport=SIZE) as context:
        opened = context.new_page()
        opened.elsewhere = []
        context.on(
            "request", lambda request: opened.elsewhere.append(request.url) if is_elsewhere(request.url) else None
        )
        opened.goto(ui.optuna)
        opened.wait_for_url("**/dashboard?studies_order_by=*")  # the token is gone
        opened.get_by_text("tiny").first.wait_for()
        yield opened


def is_elsewhere(url: str) -> bool:
    return urlsplit(url).hostname not in (None, "127.0.0.1")


def confirmed(searched: Path) -> dict:
    shown = regsearch("show", "--study", "tiny", "--home", str(searched / "runs"), "--json")
    return json.loads(shown)["confirmed"]


def ask_mlflow(ui: RunningUi, name: str, body: dict) -> dict:
    return json.loads(ui.ask(f"/mlflow/ajax-api/2.0/mlflow/{name}", "POST", body=json.dumps(body)).text)


@pytest.fixture(scope="module")
def experiment(ui) -> str:
    found = ui.ask("/mlflow/ajax-api/2.0/mlflow/experiments/get-by-name?experiment_name=tiny").text
    return json.loads(found)["experiment"]["experiment_id"]


def runs_of(ui: RunningUi, experiment: str, kind: str) -> list[str]:
    wanted = {"experiment_ids": [experiment], "filter": f"tags.`regsearch.kind` = '{kind}'"}
    return [run["info"]["run_id"] for run in ask_mlflow(ui, "runs/search", wanted)["runs"]]


class TestOptunaDashboard:
    def test_it_shows_study_trials_note_and_plots(self, ui, searched, page):
        page.get_by_text("tiny").first.click()
        page.wait_for_url("**/studies/0")
        page.get_by_role("heading", name="Hyperparameter Importance").wait_for()
        # The report's plots, drawn: their titles are text inside the plots.
        page.locator("text.gtitle", has_text="What ran when, and why it ended").first.wait_for()
        page.goto(f"{ui.base}/dashboard/studies/0/note")
        page.get_by_text("regsearch show --study tiny").wait_for()
        assert page.get_by_role("img", name="learning curves").evaluate("image => image.naturalWidth") > 0
        best = confirmed(searched)["best"]["trial"]
        page.goto(f"{ui.base}/dashboard/studies/0/trials?numbers={best}")
        page.get_by_text(f"Trial {best} (trial_id=").wait_for()
        page.get_by_text("Over 2 seeds").wait_for()
        page.get_by_text("curves.svg").first.wait_for()
        assert page.elsewhere == []

    def test_a_note_can_be_written_in_it(self, ui, page):
        sent = "fetch('/api/studies/0/1/note', {method: 'PUT', body: JSON.stringify({body: 'mine', version: 1000})})"
        kind = ", headers: {'Content-Type': 'application/json'}})"
        assert page.evaluate(f"{sent.removesuffix('})')}{kind}.then(answer => answer.status)") in (204, 409)

    def test_its_links_lead_to_the_report_and_to_the_runs(self, ui, page):
        page.goto(f"{ui.base}/dashboard/studies/0/note")
        page.get_by_role("link", name="The report").click()
        page.wait_for_selector("html[data-drawn=all]")
        page.go_back()
        page.get_by_role("link", name="Its runs in MLflow").click()
        page.wait_for_url("**/mlflow/#/experiments/*/runs*")


class TestMLflow:
    def test_it_lists_a_study_s_runs_from_its_first_page_and_opens_no_assistant(self, ui, page):
        page.goto(ui.mlflow)
        page.locator("a.experiment-link", has_text="tiny").click()
        study = page.get_by_role("row").filter(has_text=re.compile(r"tiny: confirmed \d\.\d+"))
        study.first.wait_for()
        study.get_by_role("button").first.click()  # its trials unfold
        for number in range(6):
            page.get_by_text(re.compile(rf"^trial-{number:04d} ")).first.wait_for()
        assert page.get_by_text("Assistant").filter(visible=True).count() == 0
        assert page.get_by_text("is not served").count() == 0
        assert page.elsewhere == []

    def test_the_saved_comparison_is_of_best_pick_and_baseline(self, ui, searched, page):
        page.goto(f"{ui.base}/regsearch/compare?study=tiny")
        page.wait_for_url("**/#/compare-runs*")
        for which in ("best", "one_standard_error", "baseline"):
            name = re.compile(rf"^trial-{confirmed(searched)[which]['trial']:04d} ")
            page.get_by_text(name).first.wait_for()

    def test_it_compares_params_and_curves_of_three_runs(self, ui, page, experiment):
        runs = runs_of(ui, experiment, "trial")[:3]
        page.goto(f"{ui.base}/mlflow/#/compare-runs?runs={json.dumps(runs)}&experiments={json.dumps([experiment])}")
        for text in ("weight_decay", "best_val_loss"):
            page.get_by_text(text, exact=True).first.wait_for()
        page.get_by_role("link", name="val_loss", exact=True).click()
        page.locator(".js-plotly-plot .scatterlayer .trace").first.wait_for()
        drawn = page.evaluate("document.querySelector('.js-plotly-plot').data.map(trace => trace.name)")
        assert len(set(drawn)) == len(runs) == 3

    def test_it_draws_a_run_s_curves_and_shows_its_report(self, ui, page, experiment):
        trial = runs_of(ui, experiment, "trial")[0]
        page.goto(f"{ui.base}/mlflow/#/experiments/{experiment}/runs/{trial}/model-metrics")
        page.locator(".js-plotly-plot .trace").first.wait_for()
        [study] = runs_of(ui, experiment, "study")
        page.goto(f"{ui.base}/mlflow/#/experiments/{experiment}/runs/{study}/artifacts/report.html")
        report = page.frame_locator("iframe.mlflow-html-iframe")
        report.get_by_text("regsearch report").first.wait_for()
        report.locator(".js-plotly-plot .main-svg").first.wait_for()
        # The file's scripts do not belong to this server's origin.
        frame = next(frame for frame in page.frames if frame != page.main_frame)
        assert frame.evaluate("window.origin") == "null"

    def test_it_shows_the_registry(self, ui, page):
        page.goto(f"{ui.base}/mlflow/#/models")
        page.get_by_role("link", name="tiny-model").first.wait_for()
        page.goto(f"{ui.base}/mlflow/#/models/tiny-model")
        page.get_by_text("The best of a tiny study").first.wait_for()
        page.goto(f"{ui.base}/mlflow/#/models/tiny-model/versions/1")
        page.get_by_text("Version 1").first.wait_for()
        assert page.get_by_text("is not served").count() == 0


class Elsewhere(BaseHTTPRequestHandler):
    """A server of somebody else, on another port of this machine, with an empty page."""

    def do_GET(self):
        self.send_response(200)
        self.send_header("Content-Type", "text/html")
        self.end_headers()

    def log_message(self, *_arguments):
        pass


@pytest.fixture
def elsewhere() -> Iterator[int]:
    with ThreadingHTTPServer(("127.0.0.1", 0), Elsewhere) as server:
        Thread(target=server.serve_forever, daemon=True).start()
        yield server.server_port
        server.shutdown()


ATTACK = """async base => {
    const results = []
    const json = { "Content-Type": "application/json" }
    for (const [path, options] of [
        ["/api/studies", { credentials: "include" }],
        ["/api/studies/0/note", { method: "PUT", credentials: "include", body: "{}", headers: json }],
        ["/mlflow/ajax-api/2.0/mlflow/runs/search", { method: "POST", credentials: "include", body: "{}" }],
        ["/mlflow/graphql", { method: "POST", credentials: "include", headers: json, body: "{}" }],
    ]) {
        results.push(await fetch(base + path, options).then(answer => answer.status, error => "blocked"))
    }
    const frame = document.createElement("iframe")
    const loaded = new Promise(resolve => { frame.onload = resolve })
    frame.src = base + "/dashboard"
    document.body.append(frame)
    await loaded
    try { frame.contentDocument.body; results.push("framed") } catch { results.push("blocked") }
    return results
}"""


class TestOtherPages:
    @pytest.mark.parametrize("host", ["127.0.0.1", "localhost"], ids=["same site", "another site"])
    def test_a_page_of_another_server_reads_and_changes_nothing(self, ui, page, elsewhere, host):
        """Its browser has the cookie. On the same site, browsers send it along; only the origin tells."""
        before = ui.ask("/api/studies/0").text
        page.goto(f"http://{host}:{elsewhere}/")
        assert page.evaluate(ATTACK, ui.base) == ["blocked"] * 5
        assert ui.ask("/api/studies/0").text == before

    def test_a_link_with_the_token_works_from_any_page(self, ui, browser, elsewhere):
        """A strict cookie is not sent with a redirect that another site's page has begun."""
        with browser.new_context() as context:
            page = context.new_page()
            page.goto(f"http://localhost:{elsewhere}/")
            page.evaluate("address => { location.href = address }", ui.optuna)
            page.get_by_text("tiny").first.wait_for()

    def test_open_s_files_lead_to_the_dashboards(self, ui, browser):
        with openable(ui.optuna, ui.mlflow) as files, browser.new_context() as context:
            for file, text in zip(files, ("tiny", "Experiments"), strict=True):
                page = context.new_page()
                page.goto(Path(file).as_uri())
                page.get_by_text(text).first.wait_for()
                assert ui.token not in page.url

    def test_who_has_lost_the_link_can_enter_the_token(self, ui, browser):
        with browser.new_context() as context:
            page = context.new_page()
            assert page.goto(f"{ui.base}/dashboard").status == 401
            page.get_by_role("textbox").or_(page.locator("input")).first.fill(ui.token)
            page.get_by_role("button", name="Enter").click()
            page.get_by_text("tiny").first.wait_for()
            assert ui.token not in page.url
