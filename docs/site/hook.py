"""What MkDocs asks while it builds the site: pages that do not lie in docs/, their place in the menu, their links."""

from __future__ import annotations

import names
import pages
import strategy_pages
from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files
from mkdocs.structure.pages import Page

ASSETS = ("iframe-worker.js", "site.css")


def on_config(config: MkDocsConfig) -> MkDocsConfig:
    """Put a menu entry for each strategy and notebook where mkdocs.yml names their folder."""
    strategies = ["strategies/index.md", *(f"strategies/{name}.md" for name in strategy_pages.names())]
    strategies += [{"How to add one": "contributing.md"}]
    notebooks = [page for page in pages.moved().values() if page.startswith("notebooks/")]
    config.nav = _filled(config.nav, {"strategies": strategies, "notebooks": notebooks})
    return config


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Add the pages."""
    made = {page: pages.text(source) for source, page in pages.moved().items()}
    made |= strategy_pages.made() | {"reference.md": names.reference()}
    for page, content in made.items():
        if written := files.get_file_from_path(page):  # the part of a strategy's page that is written by hand
            files.remove(written)
        files.append(File.generated(config, page, content=content))
    for name in ASSETS:
        path = str(pages.ROOT / "docs" / "site" / name)
        files.append(File.generated(config, f"assets/{name}", abs_src_path=path))
    return files


def on_page_markdown(markdown: str, page: Page, config: MkDocsConfig, files: Files) -> str:  # noqa: ARG001  (its form)
    """Let links hold on the site."""
    return pages.linked(markdown, page.file.src_uri)


def _filled(nav: list[object], folders: dict[str, list[object]]) -> list[object]:
    """Return ``nav`` with the pages of a folder in the place of its name."""
    found: list[object] = []
    for entry in nav:
        if isinstance(entry, dict):
            (title, inside), *_ = entry.items()
            content = folders.get(inside) if isinstance(inside, str) else _filled(inside, folders)
            found.append({title: content or inside})
        else:
            found.append(entry)
    return found
