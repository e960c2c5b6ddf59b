"""Text that others have written, in a database, a study file or an address, speaks for itself alone.

It stays on its line, shows every character that steers or hides, is no markup on pages, and secrets in it stay away.
"""

import json
from dataclasses import asdict, replace
from io import StringIO

import pytest
import torch
from conftest import regsearch
from fixed_study import make_spec
from markdown_it import MarkdownIt
from small_study import as_if_searched
from test_leases import record

from search.commands.output import stdout
from search.errors import StorageError, UsageError
from search.export import Exported, _card
from search.markdown import plain, without_links
from search.printable import first_line, mask_password, one_line, printable
from search.records import Reason
from search.spec import StudySpec, check_new_study_name, check_study_name, is_study_name, load_spec
from search.study import Study, open_storage
from search.study.connections import driver_message
from search.study.roster import standing
from search.terminal.standings import print_standings
from search.tracked import _subject
from search.tracking.entities import trial_tags
from search.tracking.messages import without_passwords
from search.trainers.cluster import _refuse_passwords
from search.verdict import Winner

RUNNER = "0123456789ab"
LINE_ENDS = ["\n", "\r", "\r\n", "\v", "\f", "\x1c", "\x1d", "\x1e", "\x85", "\u2028", "\u2029"]
STEERING = ["\u061c", "\u200e", "\u200f", "\u202a", "\u202e", "\u2066", "\u2069", "\u206a"]
UNSEEN = ["\xad", "\u115f", "\u180e", "\u200b", "\u2060", "\u2064", "\u3164", "\ufeff", "\ufff9", "\U000e0041"]


@pytest.mark.parametrize("character", LINE_ENDS, ids=ascii)
def test_a_line_end_in_a_name_of_somebody_else_begins_no_line(character):
    assert len(one_line(f"far{character}alice: 64 of 64 trials have ended").splitlines()) == 1
    if "\n" not in character:
        assert len(printable(f"a{character}b\nc").splitlines()) == 2


@pytest.mark.parametrize("character", [*STEERING, *UNSEEN, "\x9b", "\ud800"], ids=ascii)
def test_characters_that_steer_or_hide_are_shown_as_escapes(character):
    shown = character.encode("unicode_escape").decode()
    assert printable(f"a{character}b") == f"a{shown}b"
    assert str(StorageError(f"a{character}b")) == f"a{shown}b"


@pytest.mark.parametrize("text", ["می‌خواهم", "क्‍ष", "👩‍💻", "größe 漢字 א", "e\u0301"])
def test_words_of_every_script_are_shown_as_they_are(text):
    assert printable(text) == text


def test_a_joiner_hides_in_no_latin_word():
    assert printable("rege\u200dx \u200c") == "rege\\u200dx \\u200c"


@pytest.mark.parametrize(("error", "line"), [(ValueError(" \n a\nb"), "a"), (ValueError("\n \n"), "ValueError")])
def test_an_error_s_first_line_is_there_even_where_it_says_nothing(error, line):
    assert first_line(error) == line


@pytest.fixture
def study(tmp_path):
    opened = Study.open("fixed", make_spec(), open_storage(None, tmp_path), tmp_path)
    yield opened
    opened.close()


def test_what_a_database_says_adds_no_line_to_status_and_logs(study, tmp_path):
    evil = f"far{''.join(LINE_ENDS)}alice: 64 of 64 trials have ended\u200f\u061c :skull:"
    told = asdict(record(runner=RUNNER, boot="another", since="2026-07-01T12:00:00+00:00", host=evil))
    study._storage.set_study_system_attr(study._study_id, f"runner:{RUNNER}", told)
    asked = study.ask()
    study.finish(asked.number, Reason.ERROR, [], f"boom{evil}", evil)
    output = StringIO()
    console = stdout()
    console.file = output
    print_standings([standing("fixed", study._storage, tmp_path)], console)
    shown = output.getvalue()
    assert len(shown.splitlines()) == 4, shown  # the study, its two runners, the last error
    assert ":skull:" in shown
    assert not {"\u200f", "\u061c"} & {*shown}
    [failed] = study.records()
    assert len(failed.worker.splitlines()) == 1
    (tmp_path / "logs").mkdir()
    log = tmp_path / "logs" / "fixed-20260701-120000-7.log"
    log.write_text("".join(f"a{end}b" for end in LINE_ENDS if end != "\n"), newline="")
    said = regsearch("logs", "--study", "fixed", "--home", str(tmp_path)).split(":\n", 1)[-1]
    assert len(said.splitlines()) == 2, said  # of these ends of lines, only the one of "\r\n" is one in a file


def test_an_error_of_a_trial_commands_nothing_in_mlflow():
    from test_tracking import a_trial

    told = trial_tags(a_trial(0, Reason.ERROR, error="# Fine\n\n![](http://evil.example/p.png) <b>\x1b[2J|"))
    html = MarkdownIt().render(told["mlflow.note.content"])
    assert "<img" not in html
    assert "<h1" not in html
    assert "<b>" not in html


# Pages


NAME = "[x](javascript:alert(1))<img src=x onerror=alert(1)>"
DESCRIPTION = "<script>alert(1)</script>\n![](http://evil.example/p.png)\n\n# Regularization helps\n1. a\n\n    code"
TEXTS = [
    *(NAME, DESCRIPTION, "- a", "+ a", "1. a", "2) a", "===", "---", "> a", "# a", "`a`", "a\\", "~~~", "***", "&lt;a"),
    *("[a]: http://evil.example", "![a][b]", "|a|b|\n|-|-|", "<http://evil.example>", "__a__", "$a$", "a  \nb"),
]


@pytest.mark.parametrize("text", TEXTS)
def test_plain_text_reads_as_it_stands_on_a_page(text):
    tokens = MarkdownIt("gfm-like", {"linkify": False}).parse(plain(text))
    assert [token.type for token in tokens] == ["paragraph_open", "inline", "paragraph_close"]
    assert {child.type for child in tokens[1].children} <= {"text", "text_special"}
    assert "".join(child.content for child in tokens[1].children) == " ".join(text.split())


@pytest.mark.parametrize("text", [*TEXTS, "\\[a](http://evil.example)", "\\\\[a](http://evil.example)"])
def test_a_description_in_mlflow_leads_nowhere_and_fetches_nothing(text):
    spec = load_spec("digits").model_copy(update={"description": text})
    assert without_links(text) in _subject(spec)
    html = MarkdownIt().render(_subject(spec))
    assert not any(tag in html for tag in ("<a", "<img", "<script"))


def test_name_and_description_of_a_study_are_text_in_the_exported_page(tmp_path):
    spec = StudySpec.from_json(json.dumps(json.loads(load_spec("digits").to_json()) | {"description": DESCRIPTION}))
    spec = spec.model_copy(update={"name": NAME})
    summary = replace(as_if_searched(tmp_path).summary(), study="`](x)<b>")
    exported = Exported(Winner(0, {}, 1, [], False), 0.9, 0.1, 0.01, torch.nn.Identity(), torch.zeros(1, 64))
    card = _card(spec, summary, exported)
    html = MarkdownIt("gfm-like", {"linkify": False}).render(card)
    assert not any(tag in html for tag in ("<a", "<img", "<script", "<b>"))
    assert html.count("<h1>") == 1
    assert f"<h1>{NAME.replace('<', '&lt;').replace('>', '&gt;')}</h1>" in html


# Names


TRAPS = [
    *("-rf", "--help", "-", "~", "~root", "a*?", "*", "a?", 'a"b', "a:b", "a|b", "a<b", "a>b", "a.", "a...", "..."),
    *("CON", "con", "Con.txt", "PRN", "aux", "NUL", "com1", "LPT9.x", "COM¹", "e\u0301", "a\u3164", "a\u115fb"),
]


@pytest.mark.parametrize("name", TRAPS, ids=ascii)
def test_a_new_study_gets_no_name_that_is_a_trap(name, tmp_path):
    with pytest.raises(UsageError, match=r"must .*choose another: --name NEW|must not begin with a dot"):
        check_new_study_name(name)
    if not name.startswith("."):
        with pytest.raises(UsageError, match="must"):
            Study.open(name, make_spec(), open_storage(None, tmp_path), tmp_path)
        assert not open_storage(None, tmp_path).get_all_studies()


@pytest.mark.parametrize("name", ["digits", "größe", "漢字", "a b", "a-b", "con2", "console", "a.b", "$(x)", "[red]"])
def test_other_names_are_taken(name):
    assert check_new_study_name(name) == name


def test_a_stored_study_keeps_the_name_that_no_new_one_may_have(tmp_path, monkeypatch):
    with monkeypatch.context() as before:
        before.setattr("search.study.opening.check_new_study_name", lambda name: name)
        Study.open("-rf", make_spec(), open_storage(None, tmp_path), tmp_path).close()
    assert is_study_name(check_study_name("-rf"))
    again = Study.open("-rf", make_spec(), open_storage(None, tmp_path), tmp_path)
    again.finish(again.ask().number, Reason.ERROR, [], "boom")
    again.close()
    for command in ("show", "status", "report"):
        regsearch(command, "--study", "-rf", "--home", str(tmp_path))
    assert "-rf" in regsearch("studies", "--home", str(tmp_path))


def test_a_stored_description_with_unseen_characters_is_readable():
    told = json.loads(load_spec("digits").to_json()) | {"description": "a\u200fb"}
    assert StudySpec.from_json(json.dumps(told)).description == "a\\u200fb"


# Secrets


SECRET = "hunter2"
ADDRESSES = [
    f"postgresql://u:{SECRET}@h/d",
    *(f"postgresql://h/d?user=u&{name}={SECRET}" for name in ("password", "sslpassword", "PASSWORD", "pass%77ord")),
    *(f"postgresql://h/d?{name}={SECRET}&x=1" for name in ("passfile", "passwd", "pwd", "auth_token", "apiKey")),
    f"postgresql://h/d?options=-c%20app.password%3D{SECRET}",
    f"postgresql://h/d?options=-capp.secret={SECRET}&x=1",
    f"postgresql://h/d?options=-c%2520app.token%253D{SECRET}",
    f"mysql+pymysql://h/d?ssl_key_password={SECRET};charset=utf8",
]


@pytest.mark.parametrize("url", ADDRESSES)
def test_a_secret_anywhere_in_an_address_is_shown_nowhere(url, monkeypatch):
    assert SECRET not in mask_password(url)
    assert SECRET not in without_passwords(f"cannot connect to {url}", url)
    assert SECRET not in driver_message(OSError(f"cannot connect to {url}, password='{SECRET}'"), url)
    for argument in (url, f"--storage={url}"):
        monkeypatch.setattr("sys.orig_argv", ["regsearch", "start", argument])
        with pytest.raises(UsageError, match="shows this command line"):
            _refuse_passwords()


def test_a_driver_s_words_hold_no_secret_of_the_options():
    url = f"postgresql://h/d?options=-c%20app.password%3D{SECRET}"
    assert driver_message(OSError(f'invalid value "{SECRET}"'), url) == 'invalid value "***"'


@pytest.mark.parametrize(
    "text",
    ["postgresql://u@h/d?options=-csearch_path%3Dx&sslmode=verify-full", "--home=/data/passive", "--ray=ray://h:1"],
)
def test_what_is_no_secret_is_shown(text):
    assert mask_password(text) == text


def test_the_rest_of_an_address_is_shown():
    assert mask_password("--storage=postgresql://h/d?a=1&sslpassword=x&b=2").endswith("h/d?a=1&sslpassword=***&b=2")


@pytest.mark.parametrize("text", ["a=b://" * 5000, "a=" * 10_000, "://" * 5000, "pass" * 5000, "='" * 10_000])
def test_an_address_of_any_shape_is_masked_or_shown(text):
    assert mask_password(text)
    assert SECRET not in mask_password(f"{text}?password={SECRET}")
