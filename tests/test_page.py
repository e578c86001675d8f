"""The page of `report --format html`, in Chromium: what people see of it, and what it cannot do."""

import re
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from recordmcount.report.html import page
from tests.support import kernel_modules
from tests.support.browser import Page, opened
from tests.support.command import run

pytestmark = [pytest.mark.matrix, pytest.mark.xdist_group("page")]  # one large page

HOSTILE = "</script><img src=x onerror=alert(1)>&\"'\u202e"
ROWS = 50_000
SIZE = 3_000_000  # bytes


def row(number: int) -> dict[str, Any]:
    """As of a large program: names, places and bytes that all differ.

    Names are as long as those of a kernel are on average.
    """
    return {
        "path": "program", "function": f"driver_{number % 97}_read_{number * 17}",
        "function_offset": 4, "section": ".text", "address": 0x401000 + 64 * number,
        "kind": "call", "bytes": f"e8{number:08x}", "state": "call", "recorded": number % 2 == 0,
        "evidence": "table", "source": f"src/part_{number % 300}/file.c", "line": number % 5000,
    }  # fmt: skip


@pytest.fixture(scope="module")
def large(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Page]:
    folder = tmp_path_factory.mktemp("large")
    every = [row(number) for number in range(ROWS)]
    every[ROWS // 2]["function"] = HOSTILE
    every += [{"path": "program", "function": "main", "section": ".text", "address": 0x400000,
               "reason": "unknown"}]  # fmt: skip
    (folder / "page.html").write_text(page(every, "Call sites", "program"), "utf-8")
    with opened(folder / "page.html", folder / "profile") as browser:
        yield browser


def shown(browser: Page, column: int = 0) -> list[str]:
    """The first cells of a column that are in the document."""
    cells = f"[...document.querySelectorAll('#rows tr')].map(r => r.cells[{column}]?.textContent)"
    return [cell for cell in browser.evaluate(cells) if cell][:5]


def sort_by(browser: Page, title: str) -> None:
    heads = "[...document.querySelectorAll('thead th')]"
    browser.evaluate(f"{heads}.find(h => h.textContent === '{title}').click()")


def search(browser: Page, words: str) -> str:
    """Type words; how many rows there are then."""
    box = "document.getElementById('search')"
    browser.evaluate(f"{box}.value = {words!r}; {box}.dispatchEvent(new Event('input'))")
    browser.evaluate("new Promise(done => setTimeout(done, 1000))")
    return str(browser.evaluate("document.getElementById('count').textContent"))


def test_50_000_rows_are_less_than_3_mb_and_only_some_are_in_the_document(large: Page) -> None:
    path = Path(large.evaluate("decodeURIComponent(location.pathname)"))
    assert path.stat().st_size < SIZE
    assert large.evaluate("document.getElementById('count').textContent") == (
        "50,001 of 50,001 rows"
    )
    assert 10 < large.evaluate("document.querySelectorAll('#rows tr').length") < 200


def test_nothing_else_is_asked_for_and_nothing_is_complained_of(large: Page) -> None:
    assert [url.rpartition("/")[2] for url in large.requested()] == ["page.html"]
    assert large.complaints() == []


def test_the_policy_lets_nothing_in(large: Page) -> None:
    """As if a name had become markup: neither picture nor script nor request comes of it."""
    told = large.evaluate("""(async () => {
        const blocked = [];
        addEventListener("securitypolicyviolation", (e) => blocked.push(e.effectiveDirective));
        const box = document.createElement("div");
        box.innerHTML = "<img src=\'https://example.org/x\' onerror=\'window.bad = 1\'>";
        document.body.append(box);
        const script = document.createElement("script");
        script.textContent = "window.bad = 1";
        document.body.append(script);
        await fetch("https://example.org/").catch(() => 0);
        await new Promise((done) => setTimeout(done, 200));
        box.remove();
        script.remove();
        return [blocked.sort(), window.bad === undefined];
    })()""")
    large.events.clear()
    assert told == [["connect-src", "img-src", "script-src-attr", "script-src-elem"], True]


def test_a_search_finds_functions_and_folders(large: Page) -> None:
    assert search(large, "part_7/ driver_1_") == "2 of 50,001 rows"
    assert search(large, "onerror") == "1 of 50,001 rows"
    assert shown(large) == [HOSTILE]
    assert large.evaluate("document.images.length") == 0
    assert search(large, "no such function") == "0 of 50,001 rows"
    assert shown(large) == []
    assert search(large, "") == "50,001 of 50,001 rows"


def test_a_click_sorts_and_another_turns_it(large: Page) -> None:
    addresses = [f"{0x401000 + 64 * number:#x}" for number in range(ROWS)]
    sort_by(large, "address")
    assert shown(large, 3) == ["0x400000", *addresses[:4]]
    sort_by(large, "address")
    assert shown(large, 3) == addresses[:-6:-1]
    sort_by(large, "line")  # as numbers, and what has none stands last
    assert shown(large, 10) == ["0"] * 5


def test_scrolling_shows_other_rows(large: Page) -> None:
    sort_by(large, "address")
    large.evaluate("document.getElementById('frame').scrollTop = 24 * 25000")
    large.evaluate("new Promise(done => requestAnimationFrame(() => setTimeout(done, 50)))")
    number = int(shown(large, 3)[0], 16) - 0x401000
    assert 24_900 * 64 < number < 25_000 * 64
    assert search(large, "") == "50,001 of 50,001 rows"  # which goes back to the start


def test_plots_have_their_bars_and_numbers(large: Page) -> None:
    texts = large.evaluate("[...document.querySelectorAll('svg')].map(s => s.textContent)")
    told = [re.sub(r"\s+", " ", text) for text in texts]
    assert "sites with an entry: 25000" in told[0]
    assert ".text: 50000" in told[1]
    assert "290 others: " in told[2]
    widths = large.evaluate(
        "[...document.querySelectorAll('rect')].map(r => r.width.baseVal.value)"
    )
    assert min(widths) >= 1
    assert max(widths) <= 180


# WCAG 2.2, 1.4.3: at least 4.5, for text that is not large.
CONTRAST = """(() => {
    const level = (c) => c <= 10.3 ? c / 3294.6 : ((c / 255 + .055) / 1.055) ** 2.4;
    const light = (css) => { const [r, g, b] = css.match(/[\\d.]+/g).map(Number).map(level);
        return .2126 * r + .7152 * g + .0722 * b; };
    const ground = (e) => { for (; e; e = e.parentElement) {
        const css = getComputedStyle(e).backgroundColor;
        if (!css.endsWith(", 0)")) return css; } return "rgb(255, 255, 255)"; };
    const all = [...document.querySelectorAll("h1, h2, p, th, td, text, #count, input")];
    const contrast = (e) => {
        const style = getComputedStyle(e), ink = e.tagName === "text" ? style.fill : style.color;
        const [one, other] = [light(ink), light(ground(e))].sort((a, b) => b - a);
        return (one + .05) / (other + .05); };
    return all.filter((e) => (e.textContent || e.value) && contrast(e) < 4.5)
        .map((e) => `${e.tagName} ${e.className} ${e.textContent}: ${contrast(e)}`);
})()"""


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_all_text_is_legible(large: Page, scheme: str, tmp_path: Path) -> None:
    search(large, "")
    large.screenshot(tmp_path / "page.png", scheme)
    assert large.evaluate(CONTRAST) == []


def test_functions_without_a_site_are_rows_too(large: Page) -> None:
    assert search(large, "unknown") == "1 of 50,001 rows"
    assert shown(large) == ["main"]
    assert large.complaints() == []


@pytest.mark.kernel
def test_the_rows_of_a_large_module_are_all_there(tmp_path: Path) -> None:
    module = max((kernel_modules.CLOUD / "modules").iterdir(), key=lambda path: path.stat().st_size)
    path = shutil.copy(module, tmp_path / "large.ko")
    done = run("recordmcount", "report", "--format", "html", path)
    (tmp_path / "page.html").write_text(done.stdout, "utf-8")
    rows = run("recordmcount", "report", "--format", "csv", path).stdout.count("\n") - 1
    with opened(tmp_path / "page.html", tmp_path / "profile") as browser:
        assert browser.evaluate("data.length") == rows > 1000
        assert search(browser, "init.text").partition(" ")[0] != "0"
