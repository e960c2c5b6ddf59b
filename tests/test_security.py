"""What docs/security.md promises: no code from data, no file outside the home, no script in a page, nobody else let in.

What a storage may hold beside names is in test_hostile_storage.py, damaged files of all kinds are in test_fuzzing.py.
"""

import ast
import re
import socket
import tomllib
from dataclasses import replace
from io import StringIO
from pathlib import Path

import pytest
from click.testing import CliRunner
from conftest import regsearch
from rich.console import Console
from small_study import as_if_searched
from test_report import DRAWN, full, some_trials
from test_report import material as material_of

from search.cli import main
from search.dashboards import ui
from search.dashboards.notes import study_note, verdict_note
from search.dashboards.ui import Wanted
from search.errors import RegsearchError, StorageError, UsageError
from search.markdown import code, without_html
from search.printable import printable
from search.records import Reason
from search.report import page_path, write_page
from search.report.page import render
from search.spec import StudySpec, check_study_name, load_spec
from search.terminal.plain import PlainProgress
from search.terminal.progress import Progress
from search.tracked import _subject
from search.tracking import server, tracker
from search.tracking.entities import trial_tags

REPO = Path(__file__).parent.parent
SOURCES = sorted(path for folder in ("search", "scripts") for path in (REPO / folder).rglob("*.py"))
SCRIPT = "<script>document.title = 'run'</script><img src=x onerror=\"document.title = 'run'\">"
FRAME = "a`<iframe srcdoc='<img src=x onerror=alert(1)>'>"

UNPICKLING = {
    "search/trainers/process.py": "the pipe to a trainer's process, which this program has started itself",
    "search/tracking/messages.py": "the pipe to the tracking process, likewise",
    "search/trainers/actor.py": "what a runner sends to its trainers in a Ray cluster, which runs code anyway",
    "search/trainers/cluster.py": "the same, where it is sent",
    "scripts/benchmarks/simulated.py": "a benchmark's pipe to its own process",
}
"""Where something is unpickled, and why that runs nobody else's code."""


def calls(path: Path) -> list[tuple[str, ast.Call]]:
    """Return what a file calls, by dotted name."""
    tree = ast.parse(path.read_text())
    return [(ast.unparse(node.func), node) for node in ast.walk(tree) if isinstance(node, ast.Call)]


def test_something_is_unpickled_at_known_places_alone():
    found = {
        str(path.relative_to(REPO))
        for path in SOURCES
        if re.search(r"\bpickle\.(loads?|Unpickler)\b|\b(cloudpickle|dill|joblib|marshal|shelve)\b", path.read_text())
    }
    assert found == set(UNPICKLING)


def test_no_loader_runs_code_and_nothing_is_evaluated():
    for path in SOURCES:
        for name, call in calls(path):
            given = {keyword.arg: ast.unparse(keyword.value) for keyword in call.keywords}
            where = f"{path}:{call.lineno}"
            assert name not in ("eval", "exec", "compile", "__import__", "os.system", "os.popen"), where
            assert not name.startswith("yaml."), where
            assert name != "torch.load" or given.get("weights_only") == "True", where
            assert given.get("allow_pickle", "False") == "False", where
            assert given.get("shell", "False") == "False", where
            assert not name.endswith(("export.load", "load_model", "fetch_20newsgroups")), where


# Names


REFUSED = [
    *("", ".", "..", "../x", "../../etc/x", "/etc/passwd", "a/b", "a\\b", ".hidden", " x", "x ", "a\0b", "a\nb"),
    *("\x1b[31mred", "\x9b31m", "x\u202egnp.exe", "\udcff", "x" * 101, "x" * 300, "漢" * 74, "😀" * 80),
    *("mlflow", "optuna", "MLflow"),
]
TAKEN = ["digits", "größe", "漢字", "имя", "a b", "a;b", "$(x)", "[red]", "-x", "CON", "x" * 100, "漢" * 73, "x..y"]


@pytest.mark.parametrize("name", REFUSED, ids=ascii)
def test_names_that_are_no_folder_s_are_refused(name, tmp_path):
    with pytest.raises(UsageError, match="must") as raised:
        check_study_name(name)
    assert printable(str(raised.value)) == str(raised.value)
    if name and "\0" not in name:
        home = ["--home", str(tmp_path / "runs")]
        assert "must" in regsearch("start", "--study", "digits", "--name", name, *home, code=2)
        assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("name", TAKEN)
def test_names_of_every_alphabet_are_folders_in_the_home(name, tmp_path):
    page = page_path(tmp_path, check_study_name(name))
    page.parent.mkdir(parents=True)
    page.with_name(f"{page.name}.part").write_text("")
    assert page.resolve().is_relative_to(tmp_path.resolve() / "artifacts")
    assert page.parent.parent == tmp_path / "artifacts"


LONG = ["x" * 300, "x/" * 2500 + "x", "漢" * 100, "/dev/null/x", "/proc/none/x"]


@pytest.mark.parametrize("place", LONG, ids=lambda place: f"{place[:8]}, {len(place)}")
@pytest.mark.parametrize(
    "command",
    [
        ["show", "--study", "tiny", "--home"],
        ["show", "--study", "tiny", "--storage"],
        ["start", "--study", "digits", "--workers=0", "--home"],
        ["start", "--study", "digits", "--workers=0", "--storage"],
        ["start", "--study", "mnist", "--workers=0", "--data-dir"],
        ["start", "--workers=0", "--study"],
        ["report", "--study", "tiny", "--home", "HOME", "--out"],
        ["export", "--study", "tiny", "--no-register", "--home", "HOME", "--out"],
    ],
    ids=lambda command: f"{command[0]} {command[-1]}",
)
def test_places_that_cannot_be_are_told(command, place, home, no_network, monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    given = [str(home) if word == "HOME" else word for word in command]
    done = CliRunner().invoke(main, [*given, place])
    assert isinstance(done.exception, SystemExit), done.exception  # and no traceback
    assert done.exit_code in (1, 2)
    assert "Error: " in done.output


@pytest.fixture(scope="module")
def home(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("home")
    as_if_searched(folder)
    return folder


# Pages


@pytest.fixture
def spec(tmp_path) -> StudySpec:
    (tmp_path / "tiny.toml").write_text((REPO / "studies/digits.toml").read_text())
    return load_spec(str(tmp_path / "tiny.toml"))


def test_the_report_runs_nothing_that_a_study_holds(browser, spec, tmp_path):
    wrong = next(record for record in some_trials() if record.reason is Reason.ERROR)
    records = [*some_trials(), replace(wrong, number=99, error=SCRIPT, worker=SCRIPT)]
    hostile = spec.model_copy(update={"description": SCRIPT, "name": SCRIPT})
    material = material_of(hostile, records, study=SCRIPT, machine={SCRIPT: SCRIPT}, where={"home": SCRIPT})
    write_page(material, tmp_path / "page.html")
    page = browser.new_page()
    dialogs = []
    page.on("dialog", lambda dialog: (dialogs.append(dialog.message), dialog.dismiss()))
    page.goto((tmp_path / "page.html").as_uri())
    page.wait_for_selector(DRAWN, state="attached")
    assert page.title() == f"{SCRIPT}: regsearch report"
    assert page.locator("h1").inner_text() == SCRIPT
    assert page.locator("img").count() == 0
    assert dialogs == []


def test_a_script_that_gets_into_the_report_all_the_same_does_not_run(browser, spec, tmp_path):
    text = render(full(spec)).replace("</main>", f"{SCRIPT}</main>")
    (tmp_path / "page.html").write_text(text)
    page = browser.new_page()
    refused = []
    page.on("console", lambda message: refused.append(message.text))
    page.goto((tmp_path / "page.html").as_uri())
    page.wait_for_selector(DRAWN, state="attached")  # the page's own scripts do run
    assert page.title() == "digits: regsearch report"
    assert any("Content Security Policy" in text for text in refused)


def test_notes_for_the_dashboards_hold_no_markup_of_others(spec):
    material = material_of(spec, some_trials(), study=FRAME, where={"home": "``<b>"})
    for note in (verdict_note(material), study_note(FRAME, spec, None, 0)):
        shown = re.sub(r"(`+) ?.*?[^`] ?\1(?!`)", "", note)  # what is left beside spans of code
        assert "<" not in shown, note
    described = _subject(spec.model_copy(update={"description": f"**bold** {SCRIPT}"}))
    assert "**bold**" in described
    assert "<" not in described
    record = next(record for record in some_trials() if record.error and "script" in record.error)
    assert "<" not in trial_tags(record)["mlflow.note.content"]


@pytest.mark.parametrize(
    ("text", "span"),
    [
        ("x", "`x`"),
        ("a`b", "``a`b``"),
        ("`", "`` ` ``"),
        ("a```b`", "```` a```b` ````"),
        ("a\n\nb", "`a b`"),
        ("", "``"),
    ],
)
def test_code_in_markdown_ends_where_it_ends(text, span):
    assert code(text) == span
    assert without_html("a < b & c") == "a &lt; b &amp; c"


# Terminals


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("\x1b[2J\x1b]0;owned\x07", "\\x1b[2J\\x1b]0;owned\\x07"),
        ("\x9b31m", "\\x9b31m"),
        ("a\rb\x08\x7f", "a\\rb\\x08\\x7f"),
        ("\u202egnp.exe", "\\u202egnp.exe"),
        ("\udcff", "\\udcff"),
        ("größe 漢字 א\n😀", "größe 漢字 א\n😀"),
    ],
)
def test_what_is_printed_commands_no_terminal(text, shown):
    assert printable(text) == shown
    assert printable(shown) == shown
    assert str(StorageError(text)) == shown
    output = StringIO()
    PlainProgress(Console(file=output, force_terminal=True, color_system=None), Progress(1, 1)).message(text)
    assert output.getvalue().rstrip("\n") == shown


def test_every_error_is_printable():
    def kinds(of: type) -> list[type]:
        return [of, *(each for kind in of.__subclasses__() for each in kinds(kind))]

    assert all("\x1b" not in str(kind("\x1b[0m")) for kind in kinds(RegsearchError))


# Servers


def test_mlflow_is_new_enough_to_refuse_pickles():
    wanted = tomllib.loads((REPO / "pyproject.toml").read_text())["project"]["dependencies"]
    [least] = [re.search(r">=([\d.]+)", each)[1] for each in wanted if each.startswith("mlflow")]
    assert tuple(map(int, least.split("."))) >= (3, 17, 2)


def test_mlflow_unpickles_nothing_wherever_it_is_started(monkeypatch):
    monkeypatch.setenv("MLFLOW_ALLOW_PICKLE_DESERIALIZATION", "true")
    assert tracker._environment()["MLFLOW_ALLOW_PICKLE_DESERIALIZATION"] == "false"
    assert server.SETTINGS["MLFLOW_ALLOW_PICKLE_DESERIALIZATION"] == "false"


@pytest.mark.parametrize(("host", "hosts"), [("127.0.0.1", ()), ("0.0.0.0", ("Studies.example.org",))])
def test_the_dashboards_answer_to_their_own_names_alone(tmp_path, host, hosts):
    names = ui._names(Wanted(tmp_path, host=host, allowed_hosts=hosts))
    own = {socket.gethostname().lower(), socket.getfqdn().lower()} if host == "0.0.0.0" else set()
    assert set(names) == {"localhost", "127.0.0.1", "::1", *map(str.lower, hosts), *own}
