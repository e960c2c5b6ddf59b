"""The dashboards behind the proxy that docs/dashboards.md sets up, with a real nginx."""

import http.client
import os
import re
import shutil
import signal
import ssl
import subprocess
import time
from base64 import b64encode
from collections.abc import Iterator
from pathlib import Path

import pytest
from dashboard_server import RunningUi, ending_tidily, free_port

TOKEN = "a-token-of-one-s-own"
DOCS = Path(__file__).parent.parent / "docs" / "dashboards.md"
LOGIN = "Basic " + b64encode(b"ada:secret").decode()
SEARCH = "/mlflow/ajax-api/2.0/mlflow/experiments/search"


class Proxy:
    """nginx with the block of the docs, on another port and with files of the test's own."""

    def __init__(self, folder: Path, ui_port: int, *, has_login: bool) -> None:
        self.port, self.folder = free_port(), folder
        [block] = re.findall(r"```nginx\n(.*?)```", DOCS.read_text(), re.DOTALL)
        block = block.replace("listen 443 ssl", f"listen 127.0.0.1:{self.port} ssl")
        block = block.replace("http://127.0.0.1:8080", f"http://127.0.0.1:{ui_port}")
        block = re.sub(r"/etc/(ssl|nginx)/", f"{folder}/", block)
        if not has_login:
            kept = [line for line in block.splitlines() if not re.search(r"auth_basic|include", line)]
            assert len(kept) == len(block.splitlines()) - 3
            block = "\n".join(kept)
        kinds = ("client_body", "proxy", "fastcgi", "uwsgi", "scgi")
        temporary = "".join(f"{kind}_temp_path {folder}/temp;\n" for kind in kinds)
        user = "user root;\n" if os.geteuid() == 0 else ""
        (folder / "nginx.conf").write_text(
            f"{user}daemon off;\npid {folder}/pid;\nerror_log {folder}/errors;\nevents {{}}\n"
            f"http {{\n{temporary}{block}\n}}\n"
        )
        self.process = subprocess.Popen(["nginx", "-p", str(folder), "-c", str(folder / "nginx.conf")])

    def ask(self, method: str, path: str, body: str = "", **headers: str) -> tuple[int, http.client.HTTPMessage, str]:
        host = f"studies.example.org:{self.port}"
        sent = {"Host": host, **{name.replace("_", "-"): value for name, value in headers.items()}}
        if body:
            sent["Content-Type"] = "application/json"
        trust = ssl.create_default_context(cafile=str(self.folder / "studies.pem"))
        trust.check_hostname = False  # the address is this machine's
        connection = http.client.HTTPSConnection("127.0.0.1", self.port, context=trust, timeout=60)
        try:
            connection.request(method, path, body or None, sent)
            with connection.getresponse() as answer:
                return answer.status, answer.headers, answer.read().decode()
        finally:
            connection.close()

    @property
    def origin(self) -> str:
        return f"https://studies.example.org:{self.port}"

    def end(self) -> None:
        self.process.send_signal(signal.SIGTERM)
        self.process.wait(20)


@pytest.fixture(scope="module")
def ui(searched, tmp_path_factory) -> Iterator[RunningUi]:
    if shutil.which("nginx") is None or shutil.which("openssl") is None:
        pytest.skip("nginx or openssl is not installed")
    file = tmp_path_factory.mktemp("token") / "token"
    file.touch(0o600)
    file.write_text(TOKEN)
    names = [word for name in ("studies.example.org", "studies.localhost") for word in ("--allowed-host", name)]
    with ending_tidily(searched, *names, "--token-file", str(file)) as running:
        assert running.token == TOKEN
        yield running


@pytest.fixture(params=["login", "token"])
def proxy(ui, tmp_path, request) -> Iterator[Proxy]:
    """nginx with a login, and with the token as the only one."""
    new = ["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes", "-days=2"]
    files = ["-keyout", tmp_path / "studies.key", "-out", tmp_path / "studies.pem", "-subj", "/CN=studies.example.org"]
    subprocess.run([*new, *files], check=True, capture_output=True)
    hashed = subprocess.run(["openssl", "passwd", "-apr1", "secret"], check=True, capture_output=True, text=True).stdout
    (tmp_path / "studies.htpasswd").write_text(f"ada:{hashed}")
    (tmp_path / "studies.token").write_text(f'proxy_set_header Authorization "Bearer {TOKEN}";')
    started = Proxy(tmp_path, ui.port, has_login=request.param == "login")
    try:
        deadline = time.monotonic() + 20
        while not (tmp_path / "pid").exists() and started.process.poll() is None and time.monotonic() < deadline:
            time.sleep(0.05)
        yield started
    finally:
        started.end()


@pytest.mark.parametrize("proxy", ["login"], indirect=True)
def test_who_has_nginx_s_login_sees_and_searches_studies_and_no_one_else(proxy):
    assert proxy.ask("GET", "/api/studies")[0] == 401
    assert proxy.ask("GET", f"/api/studies?token={TOKEN}")[0] == 401
    status, _, text = proxy.ask("GET", "/api/studies", Authorization=LOGIN)
    assert (status, "tiny" in text) == (200, True)
    status, _, text = proxy.ask("POST", SEARCH, '{"max_results": 5}', Authorization=LOGIN, Origin=proxy.origin)
    assert (status, "tiny" in text) == (200, True)
    status, headers, _ = proxy.ask("GET", "/", Authorization=LOGIN)
    assert (status, headers["Location"].removeprefix(proxy.origin)) == (302, "/dashboard")
    assert proxy.ask("POST", SEARCH, "{}", Authorization=LOGIN, Origin="https://evil.example")[0] == 403
    assert proxy.ask("PUT", "/mlflow/ajax-api/3.0/mlflow/assistant/config", "{}", Authorization=LOGIN)[0] == 404
    assert proxy.ask("GET", "/api/studies", Authorization=LOGIN, Host="evil.example")[0] == 403


@pytest.mark.parametrize("proxy", ["token"], indirect=True)
def test_without_a_login_of_nginx_s_the_link_s_token_is_the_login(proxy):
    assert proxy.ask("GET", "/api/studies")[0] == 401
    status, headers, text = proxy.ask("GET", f"/dashboard?token={TOKEN}")
    assert (status, 'href="/dashboard"' in text) == (200, True)
    cookie, *rest = headers["Set-Cookie"].split("; ")
    assert {"HttpOnly", "SameSite=Strict", "Secure"} <= set(rest)
    assert "tiny" in proxy.ask("GET", "/api/studies", Cookie=cookie)[2]
    assert proxy.ask("POST", SEARCH, '{"max_results": 5}', Cookie=cookie, Origin=proxy.origin)[0] == 200
    assert proxy.ask("POST", SEARCH, "{}", Cookie=cookie, Origin=f"{proxy.origin}1")[0] == 403


@pytest.mark.parametrize("proxy", ["login"], indirect=True)
def test_both_dashboards_work_behind_it_in_a_browser(proxy, browser):
    address = f"https://studies.localhost:{proxy.port}"  # a name of this machine to browsers, without a name server
    credentials = {"username": "ada", "password": "secret"}
    with browser.new_context(http_credentials=credentials, ignore_https_errors=True) as context:
        page = context.new_page()
        page.goto(f"{address}/")
        page.get_by_text("tiny").first.wait_for()
        page.goto(f"{address}/regsearch/mlflow?study=tiny")
        page.get_by_role("row").filter(has_text=re.compile(r"tiny: confirmed \d\.\d+")).first.wait_for()
