"""Makes the pictures of the README: ``make pictures`` writes docs/pictures/*.png."""

from __future__ import annotations

import sys
import tempfile
from pathlib import Path

import browser

FOLDER = browser.ROOT / "docs/pictures"
CELLS = (
    """%load_ext nbkv
from nbkv.tasks import ledger
session = %kvload tiny
item = ledger(seed=0, n=1, chunks=8, lines=40)[0]
question = item.question
for number, text in enumerate(item.chunks, start=1):
    session.chunk(text, name=f"page_{number}")""",
    "%%kvgen -n 24\n{{ page_1 }}{{ page_2 }}{{ page_3 }}{{ question }}",
    "%%kvgen -n 24\n{{ page_1 }}{{ page_2 }}{{ page_3 }}And the lute?",
    "%%kvgen -n 24 -s blend\nNoted. {{ page_8 }}{{ question }}",
    "%%kvcompare full, prefix, blend, epic --repeat 3\nNoted. "
    + "".join(f"{{{{ page_{number} }}}}" for number in range(1, 9))
    + "{{ question }}",
    "%%kvgen -n 24 -s blend\n{{ page_6 }}{{ page_7 }}{{ page_8 }}{{ question }}",
)
SIZE = {"width": 1180, "height": 740}


def main() -> int:
    """Run a notebook in JupyterLab and take its picture in both themes."""
    FOLDER.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory() as folder, browser.browser() as chromium:
        python = browser.install(Path(folder))
        with browser.Server(Path(folder) / "lab", python).running() as server:
            lab = browser.Lab(server, chromium.new_page(viewport=SIZE), FOLDER)
            lab.open(server.write("notes.ipynb", *CELLS)).run(*range(len(CELLS)))
            take(lab)
    return 0


def take(lab: browser.Lab) -> None:
    """Take the page with a result and the panel, and a comparison, in light and dark."""
    lab.command("application:toggle-left-area")
    lab.width(280)
    blend = lab.page.locator(".jp-CodeCell", has_text="-s blend").first
    blend.locator("summary", has_text="Token map").click()
    lab.panel.locator(".nbkv-lab-request summary").first.click()
    for theme in ("Light", "Dark"):
        lab.theme(f"JupyterLab {theme}")
        blend.evaluate("cell => cell.scrollIntoView({ block: 'start' })")
        lab.page.mouse.move(0, 0)
        lab.page.wait_for_timeout(300)
        lab.shot(f"lab_{theme.lower()}")
        lab.shot(f"comparison_{theme.lower()}", lab.page.locator(".nbkv-lab-output", has=lab.page.locator("table")))


if __name__ == "__main__":
    sys.exit(main())
