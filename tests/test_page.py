"""What a reader sees of the report while it loads, and which plots are drawn when: in sight, on paper, in the end."""

from pathlib import Path

import pytest
from conftest import SPEC
from test_report import DRAWN, full

from search.report import write_page
from search.report.theme import PALETTES
from search.spec import load_spec

HELD = """
function hold(name) {
  const [call, held] = [window[name], []];
  let free = false;
  window[name] = (then) => (free ? call(then) : held.push(then));
  return () => { free = true; held.forEach((then) => call(then)); };
}
window.releaseFrames = hold("requestAnimationFrame");
window.releaseIdle = hold("requestIdleCallback");
"""
"""Holds back what waits for the first paint, and what waits until nothing else is to do."""


@pytest.fixture
def held(browser, tmp_path: Path):
    """Open the page of a full study, with nothing drawn and nothing to draw with; plots are drawn when released."""
    (tmp_path / "tiny.toml").write_text(SPEC)
    write_page(full(load_spec(str(tmp_path / "tiny.toml"))), tmp_path / "page.html")

    def opened(**more):
        page = browser.new_page(**more)
        page.add_init_script(HELD)
        page.goto((tmp_path / "page.html").as_uri())
        return page

    return opened


def drawn(page) -> list[bool]:
    """Return whether it is drawn, for each plot of an open page."""
    return page.eval_on_selector_all(".canvas", "all => all.map(c => c.querySelector('svg') !== null)")


def heights(page) -> list[float]:
    return page.eval_on_selector_all(".canvas", "all => all.map(c => c.getBoundingClientRect().height)")


def ink(page) -> set[str]:
    """Return the colours of the text in the plots."""
    return set(page.eval_on_selector_all(".legendtext", "all => all.map(t => t.style.fill)"))


def rgb(colour: str) -> str:
    red, green, blue = (int(colour[i : i + 2], 16) for i in (1, 3, 5))
    return f"rgb({red}, {green}, {blue})"


def test_the_verdict_can_be_read_before_anything_is_drawn(held):
    page = held()
    assert page.locator(".headline").is_visible()
    assert page.evaluate("typeof Plotly") == "undefined"
    assert not any(drawn(page))


def test_plots_are_drawn_where_the_reader_is_and_all_in_the_end(held):
    page = held()
    page.evaluate("releaseFrames()")
    page.wait_for_selector(".plot >> nth=0 >> svg", state="attached")
    assert drawn(page)[-1] is False
    page.locator(".plot").last.scroll_into_view_if_needed()
    page.locator(".plot").last.locator("svg").first.wait_for(state="attached")
    assert not all(drawn(page))
    page.evaluate("releaseIdle()")
    page.wait_for_selector(DRAWN, state="attached")
    assert all(drawn(page))


@pytest.mark.parametrize("width", [360, 1280])
def test_plots_move_nothing_when_they_are_drawn(held, width):
    page = held(viewport={"width": width, "height": 740})
    before = heights(page), page.evaluate("document.documentElement.scrollHeight")
    page.evaluate("releaseFrames(); releaseIdle()")
    page.wait_for_selector(DRAWN, state="attached")
    assert (heights(page), page.evaluate("document.documentElement.scrollHeight")) == before


@pytest.mark.parametrize("loaded", [False, True])
def test_on_paper_all_plots_are_drawn_and_light(held, loaded):
    page = held(color_scheme="dark")
    if loaded:
        page.evaluate("releaseFrames(); releaseIdle()")
        page.wait_for_selector(DRAWN, state="attached")
    page.evaluate("dispatchEvent(new Event('beforeprint'))")
    assert all(drawn(page))
    assert ink(page) == {rgb(PALETTES["light"]["ink"])}
    page.evaluate("dispatchEvent(new Event('afterprint')); releaseFrames(); releaseIdle()")
    page.wait_for_selector(DRAWN, state="attached")
    assert ink(page) == {rgb(PALETTES["dark"]["ink"])}


def test_plots_follow_the_reader_s_colours(held):
    page = held(color_scheme="light")
    page.evaluate("releaseFrames(); releaseIdle()")
    page.wait_for_selector(DRAWN, state="attached")
    assert ink(page) == {rgb(PALETTES["light"]["ink"])}
    page.emulate_media(color_scheme="dark")
    page.wait_for_selector(f".legendtext[style*='{rgb(PALETTES['dark']['ink'])}']", state="attached")
    page.wait_for_selector(DRAWN, state="attached")
    assert ink(page) == {rgb(PALETTES["dark"]["ink"])}


def test_it_is_printed_whole_however_early(held):
    page = held()
    page.pdf()
    assert all(drawn(page))


def test_plots_are_drawn_where_scripts_may_have_no_address(held):
    page = held()
    page.evaluate("URL.createObjectURL = () => 'blob:null/nowhere'; releaseFrames(); releaseIdle()")
    page.wait_for_selector(DRAWN, state="attached")
    assert all(drawn(page))
