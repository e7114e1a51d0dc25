"""Makes the pictures of the README: ``make pictures`` writes docs/pictures/*.png, and *.webp of maps as they come."""

from __future__ import annotations

import io
import sys
import tempfile
from pathlib import Path

import browser
from PIL import Image

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
# In a notebook of its own: the same three pages read for the first time, asked again, and in another order.
MOVING = (
    CELLS[0],
    "%%kvgen -n 60\n{{ page_1 }}{{ page_2 }}{{ page_3 }}{{ question }}",
    "%%kvgen -n 60\n{{ page_1 }}{{ page_2 }}{{ page_3 }}And the lute?",
    "%%kvgen -n 60 -s blend\nNoted. {{ page_3 }}{{ page_1 }}{{ page_2 }}{{ question }}",
)
SIZE = {"width": 1180, "height": 740}
STRIP = {"width": 1000, "height": 560}
MOST, REST, STEP = (
    600_000,
    2_200,
    160,
)  # bytes of a moving picture; milliseconds of its last frame a cell, and of others


def main() -> int:
    """Run a notebook in JupyterLab and take its picture in both themes."""
    FOLDER.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory() as folder, browser.browser() as chromium:
        python = browser.install(Path(folder))
        with browser.Server(Path(folder) / "lab", python).running() as server:
            lab = browser.Lab(server, chromium.new_page(viewport=SIZE), FOLDER)
            lab.open(server.write("notes.ipynb", *CELLS)).run(*range(len(CELLS)))
            take(lab)
            moving = server.write("moving.ipynb", *MOVING)
            for theme in ("Light", "Dark"):
                move(browser.Lab(server, chromium.new_page(viewport=STRIP), FOLDER), moving, theme)
    return 0


def move(lab: browser.Lab, notebook: str, theme: str) -> None:
    """Take frame after frame of the page while its cells run, and keep those in which something has changed."""
    lab.open(notebook).run(0)
    lab.command("application:toggle-left-area")
    lab.width(280)
    lab.theme(f"JupyterLab {theme}")
    frames: list[tuple[bytes, int]] = []
    for cell in range(1, len(MOVING)):
        lab.page.locator(".jp-CodeCell").nth(cell).evaluate("cell => cell.scrollIntoView({ block: 'start' })")
        lab.run(cell, wait=False)
        busy = True
        while busy:
            busy = lab.page.evaluate(f"({browser.KERNEL})?.status === 'busy'") or not lab.page.evaluate(
                f"document.querySelectorAll('.jp-CodeCell')[{cell}].querySelector('.nbkv-lab-output') !== null"
            )
            shot = lab.page.screenshot()
            if not frames or frames[-1][0] != shot:
                frames.append((shot, STEP))
        lab.page.wait_for_timeout(400)
        frames.append((lab.page.screenshot(), REST))
    images = [Image.open(io.BytesIO(shot)).convert("RGB") for shot, _ in frames]
    path = FOLDER / f"moving_{theme.lower()}.webp"
    for quality in (80, 60, 40):
        images[0].save(
            path,
            save_all=True,
            append_images=images[1:],
            duration=[time for _, time in frames],
            loop=0,
            quality=quality,
            method=6,
            minimize_size=True,
        )
        if path.stat().st_size <= MOST:
            return
    message = f"{path.name} has {path.stat().st_size:,} bytes, more than {MOST:,}"
    raise RuntimeError(message)


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
