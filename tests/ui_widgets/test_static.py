from __future__ import annotations

import pytest
from seen import UNSEEN

import nbkv
from nbkv.widgets.dashboard import Dashboard


@pytest.fixture(scope="module")
def views():
    with nbkv.load("tiny") as session:
        (item,) = nbkv.tasks.ledger(seed=0, n=1, chunks=6)
        chunks = [session.chunk(text, name=f"page_{at}") for at, text in enumerate(item.chunks)]
        prompt = ["Noted. ", *chunks, item.question]
        compared = session.compare(prompt, "full, prefix, blend, cacheblend, epic", max_new_tokens=6)
        last = session.generate(prompt, strategy="blend", max_new_tokens=6)
        batch = session.generate_batch([["Noted. ", *chunks, f"And the {word}?"] for word in ("wire", "bell")])
        agents = nbkv.Pipeline(
            session, {"first": "Noted. {{ page }} And the wire?", "then": "{{ first }} And the bell?"}
        )
        talk = session.chat(system="Be brief.")
        for number in range(2):
            talk.send(f"Who pays {number} ?", max_new_tokens=4)
        made = {
            "compare": compared,
            "result": last,
            "why": last.why,
            "batch": batch,
            "rerank": session.rerank(item.question, chunks),
            "pipeline": agents.run(page=chunks[0]),
            "verify": session.verify("prefix"),
            "stats": session.stats,
            "history": session.history(),
            "strategies": nbkv.strategies(),
            "tiers": session.store.tiers,
            "search": session.search(item.question, reward=lambda texts: [len(text) for text in texts], width=2),
            "certificate": session.certify(
                [["Noted. ", *chunks, f"And the {word}?"] for word in ("wire", "bell", "lamp")],
                max_kl=1e-6,
                rate=0.8,
                alpha=0.5,
                strategies=["cacheblend", "epic"],
            ),
            "talk": talk,
            "dashboard": Dashboard(session),
        }
        yield {
            name: one._repr_mimebundle_() if name == "dashboard" else one._repr_html_() for name, one in made.items()
        }


@pytest.mark.parametrize("theme", ["light", "dark"])
@pytest.mark.parametrize("width", [280, 500, 1280])
def test_every_word_of_a_view_is_seen(browser, views, width, theme):
    page = browser.new_page(viewport={"width": width, "height": 600}, color_scheme=theme)
    unseen = {}
    for name, found in views.items():
        html = found if isinstance(found, str) else (found[0] if isinstance(found, tuple) else found)["text/html"]
        page.set_content(f"<meta charset='utf-8'><body style='margin:4px'>{html}</body>")
        if words := page.evaluate(UNSEEN):
            unseen[name] = words
        assert page.evaluate("document.documentElement.scrollWidth") <= width, name
    page.close()
    assert unseen == {}


# Of rows that have become a list: values whose name is not there, and parts of bars whose word is cut.
UNNAMED = """() => [...document.querySelectorAll('.nbkv-scroll td')].filter(it => {
  const shown = it.checkVisibility() && it.textContent.trim() && getComputedStyle(it).display === 'block';
  return shown && !it.matches('.nbkv-l:first-child') && it.dataset.name &&
    getComputedStyle(it, '::before').content === 'none';
}).map(it => it.textContent)"""
CUT = """() => [...document.querySelectorAll('.nbkv-bars i')]
  .filter(it => it.checkVisibility() && it.offsetWidth > it.parentElement.clientWidth).map(it => it.textContent)"""


@pytest.mark.parametrize("width", [280, 400, 500])
def test_every_value_of_a_list_has_its_name_and_no_word_in_a_bar_is_cut(browser, views, width):
    page = browser.new_page(viewport={"width": width, "height": 600})
    for name, found in views.items():
        html = found if isinstance(found, str) else (found[0] if isinstance(found, tuple) else found)["text/html"]
        page.set_content(f"<meta charset='utf-8'><body style='margin:4px'>{html}</body>")
        assert page.evaluate(UNNAMED) == [], name
        assert page.evaluate(CUT) == [], name
    page.close()


def test_a_table_without_room_is_noticed(browser):
    page = browser.new_page(viewport={"width": 500, "height": 600})
    page.set_content("<div style='display:flex'><div style='overflow:auto;container-type:inline-size'>lost</div></div>")
    assert page.evaluate(UNSEEN) == ["lost"]
    page.set_content("<p style='white-space:nowrap'>" + "far " * 300 + "</p>")
    assert len(page.evaluate(UNSEEN)) == 1
    page.set_content("<p>seen</p>")
    assert page.evaluate(UNSEEN) == []
    page.close()
