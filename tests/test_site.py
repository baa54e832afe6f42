"""The site: it builds, its links lead somewhere, its formulae are drawn without a network, its search finds.

The cells of its pages are run by tests/test_pages.py; ``make docs`` runs them and takes warnings for errors.
"""

from __future__ import annotations

import html
import re
import shutil
import subprocess
import sys
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import quote, unquote, urlsplit

import pytest

ROOT = Path(__file__).parent.parent
CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome") or ""

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    pytest.importorskip("furo", reason="the extra docs is not installed")
    pytest.importorskip("myst_nb", reason="the extra docs is not installed")
    sources, built = tmp_path_factory.mktemp("site") / "docs", tmp_path_factory.mktemp("site") / "built"
    for name in ("zoo", "guides", "examples", "results"):
        (sources.parent / name).symlink_to(ROOT / name)
    shutil.copytree(ROOT / "docs", sources)
    command = [sys.executable, "-m", "sphinx", "-q", "-b", "html", "-D", "nb_execution_mode=off", sources, built]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    # Without outputs a cell's language is not known.
    told = [line for line in done.stderr.splitlines() if "WARNING" in line and "lexer" not in line]
    assert not told, told
    return built


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
    assert len(pages) > 50
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


def dom(page: str) -> str:
    """What a browser makes of a page after its scripts have run, and what it says of them."""
    folder = ["--headless", "--no-sandbox", "--disable-gpu", "--no-first-run", "--disable-background-networking"]
    more = ["--allow-file-access-from-files", "--virtual-time-budget=15000", "--enable-logging=stderr", "--v=0"]
    done = subprocess.run([CHROMIUM, *folder, *more, "--dump-dom", page], capture_output=True, text=True, check=False)
    assert "CONSOLE" not in done.stderr, done.stderr
    return done.stdout


@pytest.mark.skipif(not CHROMIUM, reason="no Chromium here")
@pytest.mark.parametrize(
    ("asked", "page"),
    [
        ("Baum–Welch", "models/gaussian_hmm"),
        ("Viterbi", "models/poisson_hmm"),
        ("expected gradient", "essay"),
        ("mixed model", "glossary"),
    ],
)
def test_search_finds(site: Path, asked: str, page: str) -> None:
    results = dom(f"{(site / 'search.html').as_uri()}?q={quote(asked)}")
    found = re.findall(r'<li class="kind[^>]*><a href="([^"]*)', results)
    assert page in [re.sub(r"\.html.*", "", link) for link in found[:12]]


@pytest.mark.skipif(not CHROMIUM, reason="no Chromium here")
@pytest.mark.parametrize(
    "page", ["index", "essay", "choosing", "commands", "gallery", "models/poisson_hmm", "api/verbs"]
)
def test_a_page_has_no_errors_and_fits_a_telephone(site: Path, page: str, tmp_path: Path) -> None:
    """A frame as wide as a telephone tells how wide the page in it would be."""
    frame = tmp_path / "frame.html"
    place = (site / f"{page}.html").as_uri()
    frame.write_text(
        f'<iframe id="f" src="{place}" width="400" height="800"></iframe><p id="w"></p><script>'
        "onload = () => setTimeout(() => { const d = document.getElementById('f').contentDocument.documentElement;"
        "document.getElementById('w').textContent = 'wide ' + d.scrollWidth; }, 3000)</script>"
    )
    (wide,) = re.findall(r"wide (\d+)", dom(frame.as_uri()))
    assert int(wide) <= 400
