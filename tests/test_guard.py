"""The guard before the dashboards: it passes on what their own pages ask, in the browser that has the token."""

import re
from urllib.parse import unquote

import pytest
from werkzeug.test import Client

from search.dashboards.guard import Access, RequestGuard
from search.dashboards.routes import MLFLOW, OPTUNA_DASHBOARD, OURS, find_route

TOKEN = "a-token-of-some-length"
NAMES = ["localhost", "127.0.0.1", "::1", "studies.example.org"]
WRITING = ("POST", "PUT", "DELETE", "PATCH")


@pytest.fixture
def ask():
    """Sends a request with the right token, unless other headers are given."""

    def passed_on(_environ, start_response):
        headers = [
            ("Access-Control-Allow-Origin", "*"),
            ("Access-Control-Allow-Credentials", "true"),
            ("X-Frame-Options", "ALLOWALL"),
            ("Content-Type", "text/html"),
        ]
        start_response("200 OK", headers)
        return [b"passed on"]

    guard = RequestGuard(passed_on, (*OURS, *OPTUNA_DASHBOARD, *MLFLOW), Access(NAMES, TOKEN, "regsearch-8080"))

    def ask(method="GET", path="/dashboard", cookie=TOKEN, **headers):
        sent = {"Host": "localhost:8080", **{name.replace("_", "-"): value for name, value in headers.items()}}
        if cookie is not None:
            sent["Cookie"] = f"regsearch-8080={cookie}"
        path, _, query = path.partition("?")
        as_sent = {"PATH_INFO": unquote(path, "latin-1")}  # a client would mend the paths that are not plain
        return Client(guard, use_cookies=False).open(
            "/", method=method, headers=sent, query_string=query, environ_overrides=as_sent
        )

    return ask


# By which name


@pytest.mark.parametrize("host", ["localhost", "127.0.0.1:8080", "LOCALHOST:8080", "[::1]:8080", "studies.example.org"])
def test_the_server_s_own_names_are_let_in(ask, host):
    assert ask(Host=host).text == "passed on"


@pytest.mark.parametrize(
    "host", ["evil.example", "127.0.0.1.evil.example", "localhost.evil.example:8080", "10.evil.example", "[::", ""]
)
def test_dns_rebinding_no_other_name_is_let_in(ask, host):
    assert ask(Host=host).status_code == 403


# By which page


@pytest.mark.parametrize(
    "origin",
    [
        *(
            "https://evil.example",
            "http://localhost.evil.example",
            "null",
            "x",
            "http://[",
            "http://evil@localhost:8080",
        ),
        *("http://localhost", "http://localhost:9999", "http://127.0.0.1:8080"),  # the same site, another server
    ],
)
def test_pages_of_other_origins_read_and_change_nothing(ask, origin):
    assert ask("GET", "/api/studies", Origin=origin).status_code == 403
    assert ask("POST", "/mlflow/ajax-api/2.0/mlflow/runs/search", Origin=origin).status_code == 403
    assert ask("PUT", "/api/studies/0/note", Origin=origin).status_code == 403


@pytest.mark.parametrize(
    ("host", "origin"),
    [
        ("localhost:8080", "http://localhost:8080"),
        ("[::1]:8080", "http://[::1]:8080"),
        ("studies.example.org", "https://studies.example.org"),  # a proxy before it
    ],
)
def test_its_own_pages_are_let_in(ask, host, origin):
    assert ask("PUT", "/api/studies/0/note", Host=host, Origin=origin).text == "passed on"


@pytest.mark.parametrize("site", ["cross-site", "same-site"])
def test_what_another_page_embeds_is_refused_and_a_link_in_it_followed(ask, site):
    assert ask(Sec_Fetch_Site=site, Sec_Fetch_Mode="no-cors").status_code == 403
    assert ask(Sec_Fetch_Site=site, Sec_Fetch_Mode="navigate").text == "passed on"


def test_no_other_site_frames_it_or_reads_its_answers(ask):
    for answer in (ask(), ask(path="/artifacts/0/ab"), ask(cookie=None), ask(path="/nothing"), ask(Host="x")):
        assert answer.headers.getlist("X-Frame-Options") == ["SAMEORIGIN"]
        assert answer.headers["X-Content-Type-Options"] == "nosniff"
        assert answer.headers["Cross-Origin-Resource-Policy"] == "same-origin"
        assert not [name for name, _ in answer.headers if name.startswith("Access-Control")]


@pytest.mark.parametrize(
    "path",
    [
        *("/artifacts/0/ab", "/mlflow/get-artifact", "/mlflow/model-versions/get-artifact"),
        "/mlflow/ajax-api/2.0/mlflow/logged-models/m-1/artifacts/files",
    ],
)
def test_a_file_that_was_uploaded_runs_no_script(ask, path):
    assert ask(path=path).headers["Content-Security-Policy"].startswith("sandbox;")
    assert "Content-Security-Policy" not in ask().headers  # the dashboards have policies of their own


# With which token


@pytest.mark.parametrize("cookie", [None, "", "wrong", TOKEN[:-1], TOKEN + "x", "ä", TOKEN.upper()])
def test_without_the_token_nothing_is_answered(ask, cookie):
    for method, path in [("GET", "/"), ("GET", "/api/studies"), ("PUT", "/api/studies/0/note"), ("GET", "/nothing")]:
        answer = ask(method, path, cookie=cookie)
        assert answer.status_code == 401
        assert "passed on" not in answer.text
        assert "Set-Cookie" not in answer.headers


def test_programs_send_the_token_in_a_header(ask):
    assert ask(cookie=None, Authorization=f"Bearer {TOKEN}").text == "passed on"
    assert ask(cookie=None, Authorization="Bearer wrong").status_code == 401
    assert ask(cookie=None, Authorization=f"Basic {TOKEN}").status_code == 401


def test_cookies_of_other_servers_of_the_same_host_do_no_harm(ask):
    others = f'x={{"a": 1}}; regsearch-8080=tossed; broken; regsearch-8080={TOKEN}; regsearch-9999=y'
    assert ask(cookie=None, Cookie=others).text == "passed on"
    assert ask(cookie=None, Cookie=f"regsearch-9999={TOKEN}").status_code == 401


def test_the_token_of_an_address_becomes_a_cookie_and_leaves_the_address(ask):
    answer = ask(path=f"/dashboard/studies/0?a=1&token={TOKEN}&b=%22%3E", cookie=None)
    assert answer.status_code == 200
    assert 'href="/dashboard/studies/0?a=1&amp;b=%22%3E"' in answer.text
    assert TOKEN not in answer.text
    assert answer.headers["Set-Cookie"] == f"regsearch-8080={TOKEN}; Path=/; HttpOnly; SameSite=Strict"
    assert answer.headers["Cache-Control"] == "no-store"


def test_the_cookie_is_for_encrypted_connections_alone_where_the_visitor_uses_them():
    guard = RequestGuard(lambda *_: [], OPTUNA_DASHBOARD, Access(NAMES, TOKEN, "c"))
    answer = Client(guard).get(f"/dashboard?token={TOKEN}", base_url="https://studies.example.org")
    assert answer.headers["Set-Cookie"].endswith("; Secure")


@pytest.mark.parametrize("path", ["//evil.example/", "/\\evil.example", "/%0d%0aX:y", "/dashboard//evil.example"])
def test_the_token_leads_to_no_other_server(ask, path):
    assert ask(path=f"{path}?token={TOKEN}").status_code == 404


def test_a_token_in_the_address_of_what_is_sent_counts_for_nothing(ask):
    for method in WRITING:
        assert ask(method, f"/api/studies/0/note?token={TOKEN}", cookie=None).status_code == 401


def test_the_page_for_the_token_is_no_other_site_s(ask):
    policy = ask(cookie=None).headers["Content-Security-Policy"]
    assert "form-action 'self'" in policy
    assert "script-src" not in policy


# To which route


@pytest.mark.parametrize(
    "path",
    [
        *("/mlflow/ajax-api/3.0/mlflow/assistant/config", "/mlflow/ajax-api/2.0/mlflow/webhooks", "/mlflow/version"),
        *("/mlflow/api/2.0/mlflow/runs/search", "/mlflow", "/mlflow/ajax-api/2.0/mlflow/runs/delete", "/nothing"),
        *("/dashboard/../api/meta", "/static/../index.html", "/dashboard\n", "/mlflow/static-files/..%2f..%2fx"),
        *("/mlflow//graphql", "/mlflow/graphql/", "/Dashboard", "/artifacts/0/../0/ab", "/api/studies/0/note/x"),
    ],
)
def test_what_is_on_no_list_is_not_found_by_any_method(ask, path):
    for method in ("GET", "HEAD", "OPTIONS", "TRACE", *WRITING):
        assert ask(method, path).status_code == 404


def test_a_refused_change_says_why(ask):
    answer = ask("DELETE", "/api/studies/0")
    assert answer.status_code == 404
    assert "regsearch ui shows studies, and changes notes alone" in answer.text


def test_notes_are_all_that_is_changed():
    """Of the two routes of MLflow's that are sent by POST, one is a search, and the other is checked elsewhere."""
    sent = {route.path for route in (*OURS, *OPTUNA_DASHBOARD, *MLFLOW) if set(route.methods.split()) & set(WRITING)}
    searches = {path for path in sent if re.search(r"/(search|search-datasets|graphql)$", path)}
    assert sent - searches == {"/api/studies/[0-9]+(/[0-9]+)?/note"}


def test_a_method_goes_with_its_route_alone():
    assert find_route(OPTUNA_DASHBOARD, "GET", "/api/studies/0") is not None
    for method in (*WRITING, "HEAD", "OPTIONS", "get", ""):
        assert find_route(OPTUNA_DASHBOARD, method, "/api/studies/0") is None
