"""The documentation as a site: built strictly and without a network, it has every strategy and every public name."""

from __future__ import annotations

import importlib.util
import os
import posixpath
import re
import subprocess
import sys
from dataclasses import fields
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import unquote

import pytest

import nbkv
from nbkv.registry import strategies as registry

ROOT = Path(__file__).resolve().parents[2]
NO_NETWORK = """import socket
def refused(self, address):
    if self.family in (socket.AF_INET, socket.AF_INET6):
        raise RuntimeError(f"a network is asked for: {address}")
socket.socket.connect = refused
socket.socket.connect_ex = refused
"""
OFFLINE = {"HF_HUB_OFFLINE": "1", "TRANSFORMERS_OFFLINE": "1", "OMP_NUM_THREADS": "1", "NO_MKDOCS_2_WARNING": "1"}
FETCHED = {
    ("script", "src"),
    ("img", "src"),
    ("img", "srcset"),
    ("source", "srcset"),
    ("iframe", "src"),
    ("link", "href"),
}
NOT_FETCHED = {"canonical", "prev", "next", "alternate", "author", "edit"}
MATHS = "prefix cacheblend prophet epic cachecraft kvshare kvlink residual flashblock relay kvcomm batch ets"
MATHS += " h2o snapkv tova streaming window lazyeviction kvzip"


class References(HTMLParser):
    """What a page loads, where its links lead, and the names of its places."""

    def __init__(self, text):
        super().__init__()
        self.loads, self.links, self.places = [], [], set()
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        given = dict(attrs)
        self.places |= {given["id"]} if given.get("id") else set()
        if tag == "a" and given.get("href"):
            self.links.append(given["href"])
        if tag == "link" and set((given.get("rel") or "").split()) & NOT_FETCHED:
            return
        self.loads += [given[name] for name in given if (tag, name) in FETCHED and given[name]]


def fetched(text):
    """Return what a page or a style sheet fetches from the network."""
    styled = re.findall(r"(?:url\(|@import)\s*['\"]?([^'\")\s]+)", text)
    return [target for target in [*References(text).loads, *styled] if re.match(r"(https?:)?//", target)]


@pytest.fixture(scope="module")
def site(tmp_path_factory):
    folder, start = tmp_path_factory.mktemp("site"), tmp_path_factory.mktemp("start")
    (start / "sitecustomize.py").write_text(NO_NETWORK, encoding="utf-8")
    paths = [str(start), str(ROOT), str(ROOT / "kernels")]
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "--quiet", "--site-dir", str(folder)]
    mine = {"PYTHONPATH": os.pathsep.join(paths), "NBKV_CACHE": str(start / "remembered")}
    env = os.environ | OFFLINE | mine
    done = subprocess.run(command, cwd=ROOT, env=env, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return folder


@pytest.fixture(scope="module")
def texts(site):
    return {path.relative_to(site).as_posix(): path.read_text(encoding="utf-8") for path in site.rglob("*.html")}


@pytest.fixture(scope="module")
def pages():
    """The module that knows where pages come from."""
    spec = importlib.util.spec_from_file_location("pages", ROOT / "docs" / "site" / "pages.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_every_strategy_has_a_page_with_its_options_and_a_prompt_it_served(texts):
    for name in registry.names():
        page = texts[f"strategies/{name}.html"]
        assert f'href="{name}.html"' in texts["strategies/index.html"]
        assert "When not to use" in page, name
        assert "nbkv-shot" in page, name
        cells = [
            re.findall(r"<td>(.*?)</td>", row, re.DOTALL) for row in re.findall(r"<tr>(.*?)</tr>", page, re.DOTALL)
        ]
        rows = {row[0]: row[2] for row in cells if len(row) == 3}
        for option in fields(registry.get(name)):
            said = [meaning for known_as, meaning in rows.items() if f"<code>{option.name}</code>" in known_as]
            assert len(said) == 1, f"{name}: {option.name}"
            assert said[0].strip(), f"docs/strategies/{name}.md does not say what {option.name} means"


@pytest.mark.parametrize("name", MATHS.split())
def test_the_methods_have_their_formulas_and_no_latex_is_left(texts, name):
    page = texts[f"strategies/{name}.html"]
    assert "<math" in page
    assert not re.findall(r"\$\S|\\(?:frac|sum|text|left)\b|<merror", page.split("What this implementation does")[0])


def test_every_public_name_is_in_the_reference(texts):
    places = References(texts["reference.html"]).places
    assert [name for name in nbkv.__all__ if f"nbkv.{name}" not in places] == []
    assert "nbkv.Session.generate" in places


def test_nothing_is_fetched_from_a_network(site, texts):
    sheets = {path.name: path.read_text(encoding="utf-8") for path in site.rglob("*.css")}
    assert {name: found for name, text in (texts | sheets).items() if (found := fetched(text))} == {}
    assert len(texts) > len(registry.names())


@pytest.mark.parametrize(
    "text",
    [
        '<script src="https://unpkg.com/iframe-worker/shim"></script>',
        '<link rel="stylesheet" href="//fonts.googleapis.com/css?family=Roboto">',
        '<img alt="" src="http://example.org/badge.svg">',
        "@font-face { src: url('https://fonts.gstatic.com/s/roboto.woff2') }",
    ],
)
def test_what_would_be_fetched_is_seen(text):
    assert len(fetched(text)) == 1


def test_every_link_leads_to_a_file_of_the_site(site, texts):
    broken = []
    for name, text in texts.items():
        found = References(text)
        for target in [*found.links, *found.loads]:
            path = unquote(target.partition("#")[0].partition("?")[0])
            if not path or re.match(r"[a-z]+:|//", target):
                continue
            there = posixpath.normpath(posixpath.join(posixpath.dirname(name), path))
            if not (site / there).is_file():
                broken.append(f"{name}: {target}")
    assert [line for line in broken if not line.startswith("404.html")] == []


def test_what_lies_outside_of_docs_has_a_page(texts):
    assert {"index.html", "contributing.html", "changelog.html", "kernels.html", "limits.html"} <= set(texts)
    notebooks = {path.stem for path in (ROOT / "notebooks").glob("*.ipynb")}
    assert {name for name in notebooks if f"notebooks/{name}.html" in texts} == notebooks


@pytest.mark.parametrize(
    ("page", "written", "becomes"),
    [
        ("guide.md", "[k](../kernels/README.md#rows)", "[k](kernels.md#rows)"),
        ("guide.md", "[c](../CONTRIBUTING.md), [s](stores.md)", "[c](contributing.md), [s](stores.md)"),
        ("masks.md", "[n](../notebooks/11_masks.ipynb)", "[n](notebooks/11_masks.md)"),
        ("certify.md", "[nbkv/fidelity.py](../nbkv/fidelity.py)", "nbkv/fidelity.py"),
        ("index.md", "[g](docs/guide.md), [l](LICENSE)", "[g](guide.md), l"),
        ("index.md", "![p](docs/pictures/a.png)", "![p](pictures/a.png)"),
        ("notebooks/11_masks.md", "[m](../docs/masks.md)", "[m](../masks.md)"),
        ("guide.md", "```\n[k](../kernels/README.md)\n```", "```\n[k](../kernels/README.md)\n```"),
    ],
)
def test_links_of_the_repository_become_links_of_the_site(pages, page, written, becomes):
    assert pages.linked(written, page) == becomes


def test_a_picture_for_two_themes_follows_the_switch_of_the_site(pages):
    dark = '<source media="(prefers-color-scheme: dark)" srcset="docs/d.png">'
    written = f'<picture>\n  {dark}\n  <img alt="A" src="docs/l.png">\n</picture>'
    assert pages.linked(written, "index.md") == "![A](l.png#only-light)\n![A](d.png#only-dark)"
