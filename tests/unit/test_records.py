from __future__ import annotations

import pytest

from nbkv.errors import LoadError
from nbkv.tasks.files.records import records


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b'{"a": 1}\n{"a": \n', "line 2: no JSON"),
        (b'[{"a": 1},\n {"a": }]', "line 2: no JSON"),
        (b"\n", "holds no records"),
        (b"[]", "holds no records"),
        (b"\xff\xfe\x00", "cannot be read as text"),
        (b'{"a": 1}\n3\n', "line 2: a int, not an object"),
        (b'[{"a": 1}, 3]', "item 2: a int, not an object"),
        (b"[" * 100_000, "no JSON"),
    ],
)
def test_what_cannot_be_read_is_one_line(tmp_path, content, said):
    path = tmp_path / "file.jsonl"
    path.write_bytes(content)
    with pytest.raises(LoadError, match=said) as error:
        records(path, "what is wanted")
    assert str(path) in str(error.value)
    assert str(error.value).endswith("(accepted: what is wanted)")
    assert "\n" not in str(error.value)


def test_a_missing_file_and_a_folder(tmp_path):
    for path in (tmp_path / "none.jsonl", tmp_path):
        with pytest.raises(LoadError, match="accepted: it"):
            records(path, "it")


def test_lines_are_counted_as_they_stand(tmp_path):
    path = tmp_path / "file.jsonl"
    path.write_text('\ufeff{"a": "\u2028"}\n\n{"a": 2}\n', encoding="utf-8")
    assert [(record.data["a"], record.where.rpartition(" ")[2]) for record in records(path, "")] == [
        ("\u2028", "1"),
        (2, "3"),
    ]
