"""The page stands alone, runs nothing but its own lines, and takes names as names."""

import base64
import hashlib
import re
import shutil
import subprocess
from collections.abc import Iterator
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path

import pytest
from made_comparisons import made

from mtl_runner.analysis import report
from mtl_runner.analysis.report.figures import FIGURES, Drawn
from mtl_runner.analysis.report.page import as_html

NASTY = ("<script>alert(1)</script>", '"><img src=x onerror=alert(2)>', "{{ 7 * 7 }} {% raw %}", "a & b")
CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)


class Elements(HTMLParser):
    """The tags of a page, with their attributes."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.found: list[tuple[str, dict[str, str | None]]] = []
        self.feed(page)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.found.append((tag, dict(attrs)))

    def of(self, tag: str) -> Iterator[dict[str, str | None]]:
        return (attributes for name, attributes in self.found if name == tag)


@pytest.fixture(scope="module")
def page() -> str:
    comparison = made(3, NASTY, title="<svg onload=alert(3)>")
    return as_html(comparison, [Drawn("gains", "Gains", missing="<i>nothing</i>")])


def test_names_are_text(page: str) -> None:
    elements = Elements(page)
    assert len(list(elements.of("script"))) == 1
    assert not list(elements.of("img")) and not list(elements.of("svg")) and not list(elements.of("i"))
    assert not any(name.startswith("on") for _, attributes in elements.found for name in attributes)
    assert "&lt;script&gt;alert(1)&lt;/script&gt;" in page
    assert "{{ 7 * 7 }}" in page


def test_the_policy_allows_the_page_alone(page: str) -> None:
    policy = next(each["content"] for each in Elements(page).of("meta") if each.get("http-equiv") == "Content-Security-Policy")
    assert policy is not None and policy.startswith("default-src 'none'; img-src data:;")
    for tag in ("style", "script"):
        (text,) = re.findall(f"<{tag}>(.*?)</{tag}>", page, re.DOTALL)
        digest = base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()
        assert f"{tag}-src 'sha256-{digest}'" in policy


def test_nothing_is_fetched_and_the_same_comparison_gives_the_same_bytes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in FIGURES.keys() - {"gains", "learning_curves"}:
        monkeypatch.delitem(FIGURES, name)
    files, again = (report.write(made(3, 2), tmp_path / name) for name in "ab")
    assert [path.read_bytes() for path in files] == [path.read_bytes() for path in again]
    assert [path.name for path in files[:3]] == ["table.csv", "table.md", "table.tex"] and files[-1].name == "report.html"
    assert all(path.stat().st_size for path in files)
    elements = Elements(files[-1].read_text(encoding="utf-8"))
    sources = [value or "" for _, attributes in elements.found for name, value in attributes.items() if name in ("src", "srcset")]
    assert len(sources) == 2 and all(source.startswith("data:image/svg+xml;base64,") for source in sources)
    assert [each["href"] for each in elements.of("link")] == ["data:,"]


@pytest.mark.parametrize(
    ("address", "linked"), [("https://host/#/compare", True), ("javascript:alert(1)", False), ("mtl ui", False)]
)
def test_only_a_web_address_is_a_link(address: str, linked: bool) -> None:
    page = as_html(replace(made(2, 1, seeds=2), mlflow=address), [])
    assert (address in [each.get("href") for each in Elements(page).of("a")]) == linked
    assert address in page


@pytest.mark.slow
def test_the_page_opens_in_a_browser_without_network_and_without_errors(tmp_path: Path) -> None:
    if CHROMIUM is None:
        pytest.skip("there is no Chromium")
    page = report.write(made(3, NASTY, title="<script>alert(4)</script>"), tmp_path)[-1]
    # one more script, which its policy has to refuse: so that silence means no error, and not that nobody listens
    refused = tmp_path / "refused.html"
    refused.write_text(page.read_text(encoding="utf-8").replace("</body>", "<script>1</script></body>"), encoding="utf-8")
    opened, guarded = (_opened(CHROMIUM, each, tmp_path) for each in (page, refused))
    assert "CONSOLE" in guarded.stderr and "Content Security Policy" in guarded.stderr
    assert "CONSOLE" not in opened.stderr, opened.stderr
    assert "table_0" not in opened.stdout and "Best by validation" in opened.stdout


def _opened(browser: str, page: Path, folder: Path) -> subprocess.CompletedProcess[str]:
    """The page as the browser has it after its script ran; no name resolves to an address."""
    command = [
        browser, "--headless", "--no-sandbox", "--disable-gpu", f"--user-data-dir={folder / 'profile'}",
        "--enable-logging=stderr", "--v=0", "--host-resolver-rules=MAP * ~NOTFOUND", "--dump-dom", page.as_uri(),
    ]  # fmt: skip
    return subprocess.run(command, capture_output=True, text=True, timeout=120, check=True)
