from __future__ import annotations

import re

import nbformat
import pytest

from nbkv.show.drawing import PLOTLY


@pytest.fixture(scope="session")
def shown_well():
    """Check a run: so many figures, each a picture too; one sentence at the end; no warnings, no empty tables."""

    def check(sweep, figures):
        notebook = nbformat.read(sweep.runs[0].path, as_version=4)
        outputs = [(cell, output) for cell in notebook.cells for output in cell.get("outputs", ())]
        drawn = [output.data for _, output in outputs if PLOTLY in output.get("data", {})]
        assert len(drawn) == figures
        assert all("image/png" in data and data["text/plain"].strip() for data in drawn)
        said = [
            output.data["text/markdown"] for cell, output in outputs if "conclusion" in cell.metadata.get("tags", ())
        ]
        assert len(said) == 1
        assert said[0].startswith("**")
        assert said[0].endswith(".**")
        assert "nan" not in said[0]
        words = "\n".join(str(output.get("text", "")) + str(output.get("data", "")) for _, output in outputs)
        assert not re.search(r"Series\(\[\]|\w+Warning\b", words)

    return check
