from __future__ import annotations

import itertools

import pytest

from nbkv.sweep.page.gridplot import gridplot


def grid(strategies=("epic", "prophet"), budgets=(0.1, 0.2, 0.3), seeds=(0, 1), **more):
    for strategy, budget, seed in itertools.product(strategies, budgets, seeds):
        records = {"right": len(strategy) / 20 + budget + seed / 100, "kv_bytes": 1e9 * budget / len(strategy)}
        yield {"strategy": strategy, "budget": budget, "seed": seed, **more}, records, ""


def named(drawing):
    return {trace.name: trace for trace in drawing.figure.data if trace.name}


@pytest.mark.parametrize("seeds", [(0,), (0, 1), (0, 1, 2)])
def test_a_grid_is_one_plot_with_intervals_over_its_repeats(folder, seeds):
    drawn = gridplot(folder(*grid(seeds=seeds)).runs, {})
    lines = named(drawn.panels[0])
    assert lines.keys() == {"epic", "prophet"}
    assert [*lines["epic"].x] == [0.1, 0.2, 0.3]
    assert lines["epic"].y[0] == pytest.approx(0.2 + 0.1 + sum(seeds) / len(seeds) / 100)
    several = len(seeds) > 1
    assert sum(trace.fill == "toself" for trace in drawn.panels[0].figure.data) == (2 if several else 0)
    bands = "; bands: 95 % intervals of the mean over seed"
    assert drawn.caption == f"A line for each strategy{bands if several else ''}."


@pytest.mark.parametrize("n", [5, 6, 7, 9])
def test_all_panels_draw_the_same_settings_in_the_same_colours_and_say_what_is_left_out(folder, n):
    drawn = gridplot(folder(*grid(strategies=[f"{'s' * at}" for at in range(1, n + 1)], seeds=(0,))).runs, {})
    first, second = (named(panel) for panel in drawn.panels)
    assert first.keys() == {"s" * at for at in range(max(1, n - 5), n + 1)}
    assert {name: line.line.color for name, line in first.items()} == {
        name: line.line.color for name, line in second.items()
    }
    assert ("the 6 highest of" in drawn.caption) == (n > 6)
    assert len(named(drawn.whole)) == len(first)


def test_settings_without_numbers_are_bars_also_below_zero(folder):
    gains = {"epic": 0.2, "prophet": 0.1, "h2o": -0.3}
    drawn = gridplot(folder(*[({"strategy": name}, {"gain": gain}, "") for name, gain in gains.items()]).runs, {})
    assert [*drawn.whole.figure.data[0].x] == [0.2, 0.1, -0.3]
    assert "h2o: -0.3" in drawn.whole.text
    assert drawn.panels == (drawn.whole,)


@pytest.mark.parametrize(
    ("name", "values", "title", "shown"),
    [
        ("kv_bytes", (5.8e9, 2e9), "kv_bytes (GB)", 5.8),
        ("hit_rate", (0.95, 0.1), "hit_rate (%)", 95),
        ("kl", (1, 2), "kl (nats)", 1),
    ],
)
def test_axes_have_units_people_read(folder, name, values, title, shown):
    over = gridplot(folder(*[({"n": n}, {name: value}, "") for n, value in enumerate(values)]).runs, {})
    assert over.panels[0].figure.data[0].y[0] == pytest.approx(shown)
    assert over.whole.text.splitlines()[1] == f"{title} by n"
    named_ = [({"model": at}, {name: value}, "") for at, value in zip("ab", values, strict=True)]
    bars = gridplot(folder(*named_).runs, {}).whole.figure
    assert bars.layout.xaxis.title.text == title


def test_notebooks_with_the_same_settings_are_not_averaged(folder):
    runs = [({"n": n, "notebook": f"{name}.ipynb"}, {"kl": n + at}, "") for n in (1, 2) for at, name in enumerate("ab")]
    drawn = gridplot(folder(*runs).runs, {})
    assert {name: [*line.y] for name, line in named(drawn.whole).items()} == {"a": [1, 2], "b": [2, 3]}
    assert drawn.caption == "A line for each notebook."
