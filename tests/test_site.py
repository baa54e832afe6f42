"""The site as a reader has it: in a browser without a network, page by page, on a screen and on a telephone.

``make docs`` builds it, runs its cells and takes warnings for errors; so does this, unless ``ZOO_SITE`` names a folder
where it is built already. The cells are run by tests/test_pages.py too, in the everyday run.
"""

from __future__ import annotations

import html
import os
import re
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from html.parser import HTMLParser
from pathlib import Path
from typing import Any
from urllib.parse import quote, unquote, urlsplit

import pytest

from tests.browser import CHROMIUM, Browser

ROOT = Path(__file__).parent.parent
#: What a page says of itself: how wide it is, what stands out of it, letters under 12 points, pictures that are not
#: there or not described, formulae that are not drawn. A picture far down is loaded when it is asked for.
LOOK = """
(async () => {
  await Promise.all([...document.images].map(i => { i.loading = "eager"; return i.decode().catch(() => 0); }));
  const wide = document.documentElement.clientWidth;
  const shown = e => e.offsetParent !== null && e.getClientRects().length > 0;
  const words = e => `${e.tagName} ${e.className} ${e.textContent.trim().slice(0, 40)}`;
  const scrolls = e => e && !["ARTICLE", "BODY"].includes(e.tagName)  // an inner box; not the page, nor all of its text
    && (["auto", "scroll"].includes(getComputedStyle(e).overflowX) || scrolls(e.parentElement));
  const all = [...(document.querySelector("article") ?? document.body).querySelectorAll("*")].filter(shown);
  const small = new Set(), walk = document.createTreeWalker(document.body, NodeFilter.SHOW_TEXT);
  while (walk.nextNode()) {
    const e = walk.currentNode.parentElement, size = parseFloat(getComputedStyle(e).fontSize);
    const counts = walk.currentNode.textContent.trim() && shown(e) && !e.closest("math, svg, script, style, sup, sub");
    if (counts && size > 0 && size < 12) small.add(`${size} ${words(e)}`);
  }
  return {
    width: document.documentElement.scrollWidth,
    beyond: all.filter(e => e.getBoundingClientRect().right > wide + 1 && !e.closest("math") && !scrolls(e)).map(words),
    small: [...small],
    missing: [...document.images].filter(i => !(i.complete && i.naturalWidth > 0)).map(i => i.src),
    silent: [...document.images].filter(i => !i.alt).map(i => i.src),
    flat: [...document.querySelectorAll("math")].filter(m => shown(m.parentElement)
      && m.getBoundingClientRect().height < 5).map(words),
  };
})()
"""

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    if "ZOO_SITE" in os.environ:
        return Path(os.environ["ZOO_SITE"]).resolve()
    pytest.importorskip("furo", reason="the extra docs is not installed")
    pytest.importorskip("myst_nb", reason="the extra docs is not installed")
    sources, built = tmp_path_factory.mktemp("site") / "docs", tmp_path_factory.mktemp("site") / "built"
    for name in ("zoo", "guides", "examples", "results", "notebooks"):
        (sources.parent / name).symlink_to(ROOT / name)
    for name in ("CHANGELOG.md", "CONTRIBUTING.md"):
        shutil.copy(ROOT / name, sources.parent / name)  # a link's links would lead out of here
    shutil.copytree(ROOT / "docs", sources)
    env = {**os.environ, "PYTHONPATH": str(ROOT)}
    command = [sys.executable, "-m", "sphinx", "-W", "--keep-going", "-q", "-b", "html", sources, built]
    done = subprocess.run(command, capture_output=True, text=True, check=False, env=env)
    assert done.returncode == 0, done.stderr
    return built


@pytest.fixture(scope="module")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Browser]:
    if not CHROMIUM:
        pytest.skip("no Chromium here")
    with Browser(tmp_path_factory.mktemp("browser")) as opened:
        yield opened


class Page(HTMLParser):
    def __init__(self) -> None:
        super().__init__()
        self.ids, self.links, self.sources = set[str](), list[str](), list[str]()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        values = {name: value or "" for name, value in attrs}
        self.ids.add(values.get("id", ""))
        if tag == "a" and values.get("href"):
            self.links.append(values["href"])
        self.sources += [values[name] for name in ("src",) if tag in ("img", "script") and values.get(name)]
        self.sources += [values["href"]] if tag == "link" and values.get("href") else []


def test_every_link_and_picture_is_there(site: Path) -> None:
    pages = {path: Page() for path in site.rglob("*.html")}
    for path, page in pages.items():
        page.feed(path.read_text(encoding="utf-8"))
    assert len(pages) > 90
    for path, page in pages.items():
        assert not [s for s in page.sources if urlsplit(s).scheme or s.startswith("//")], "nothing is fetched"
        for link in page.links + page.sources:
            parts = urlsplit(link)
            if parts.scheme:
                continue
            target = (path.parent / unquote(parts.path)).resolve() if parts.path else path
            assert target.exists(), f"{path.name}: {link}"
            if parts.fragment and target in pages:
                assert unquote(parts.fragment) in pages[target].ids, f"{path.name}: {link}"


def test_formulae_are_drawn_by_the_browser_itself(site: Path) -> None:
    pages = [path.read_text(encoding="utf-8") for path in site.rglob("*.html")]
    formulae = [formula for page in pages for formula in re.findall(r"<math.*?</math>", page, re.DOTALL)]
    assert len(formulae) > 100
    for formula in formulae:
        assert "\\" not in html.unescape(formula), formula
        assert "<mi>&</mi>" not in formula, formula


def test_no_page_says_where_it_was_built(site: Path) -> None:
    """As warnings in the output of a cell do."""
    for path in site.rglob("*.html"):
        text = path.read_text(encoding="utf-8")
        assert "site-packages" not in text, path
        assert str(ROOT) not in text, path


@pytest.mark.parametrize("width", [400, 1200])
def test_every_page_in_a_browser(site: Path, browser: Browser, width: int) -> None:
    """No error, no request that leaves, every picture loaded, every formula drawn, nothing cut off or too small."""
    browser.width(width)
    wrong: dict[str, Any] = {}
    for path in sorted(site.rglob("*.html")):
        browser.show(path.as_uri())
        seen = browser.value(LOOK)
        seen["width"] = max(0, seen["width"] - width)
        seen["said"] = browser.complaints()
        seen["left"] = [place for place in browser.requested() if not place.startswith(("file:", "data:"))]
        found = {name: what for name, what in seen.items() if what}
        if found:
            wrong[str(path.relative_to(site))] = found
    assert not wrong


@pytest.mark.parametrize(
    ("asked", "first", "among"),
    [
        ("Baum–Welch", "models/gaussian_hmm", "models/poisson_hmm"),
        ("Viterbi", "models/gaussian_hmm", "models/poisson_hmm"),
        ("expected gradient", "glossary", "essay"),
        ("mixed model", "glossary", "glossary"),
    ],
)
def test_search_finds(site: Path, browser: Browser, asked: str, first: str, among: str) -> None:
    """What it leads to, and one of the next two."""
    browser.show(f"{(site / 'search.html').as_uri()}?q={quote(asked)}")
    until = time.monotonic() + 30
    while "finished" not in browser.value("document.querySelector('.search-summary')?.textContent ?? ''"):
        assert time.monotonic() < until, "the search goes on"
        time.sleep(0.05)
    links = browser.value("[...document.querySelectorAll('ul.search > li > a')].map(a => a.getAttribute('href'))")
    found = [re.sub(r"\.html.*", "", link) for link in links[:3]]
    assert found[0] == first, links[:5]
    assert among in found, links[:5]
