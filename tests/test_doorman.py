"""Who may ask optuna-dashboard for what: its own pages and programs of this machine, and no other site."""

import pytest
from werkzeug.test import Client

from search.dashboards.optuna_app import Door, Doorman


@pytest.fixture
def ask(tmp_path):
    def passed_on(_environ, start_response):
        headers = [("Access-Control-Allow-Origin", "*"), ("Content-Type", "text/html")]
        start_response("200 OK", headers)
        return [b"passed on"]

    door = Door(str(tmp_path), None, "127.0.0.1", 1, ["localhost", "127.0.0.1"], "")
    client = Client(Doorman(passed_on, door, None))
    return lambda method, path, **headers: client.open(path, method=method, headers={"Host": "localhost", **headers})


@pytest.mark.parametrize("origin", ["https://evil.example", "http://localhost.evil.example", "null", "x", "http://["])
def test_pages_of_others_change_nothing(ask, origin):
    for method in ("POST", "PUT", "DELETE", "PATCH"):
        assert ask(method, "/api/studies/0", Origin=origin).status_code == 403


@pytest.mark.parametrize("origin", [None, "http://localhost:8080", "http://127.0.0.1:8080"])
def test_its_own_pages_and_programs_do(ask, origin):
    given = {} if origin is None else {"Origin": origin}
    assert ask("DELETE", "/api/studies/0", **given).text == "passed on"


def test_no_other_site_frames_it_or_reads_its_files(ask):
    answer = ask("GET", "/dashboard")
    assert (answer.headers["X-Frame-Options"], answer.headers["X-Content-Type-Options"]) == (
        "SAMEORIGIN",
        "nosniff",
    )
    assert "Access-Control-Allow-Origin" not in ask("GET", "/artifacts/0/x").headers


def test_a_file_that_was_uploaded_runs_no_script(ask):
    assert ask("GET", "/artifacts/0/x").headers["Content-Security-Policy"].startswith("sandbox;")
    assert "Content-Security-Policy" not in ask("GET", "/dashboard").headers  # optuna-dashboard has its own
