"""How an answer is scored: each metric gives a number from 0 to 1 for a text and the expected answers.

``em``, ``f1``: SQuAD's exact match and token F1 with its normalisation (Rajpurkar et al. 2016, the evaluation script of
version 1.1, as HotpotQA, MuSiQue and LongBench use it), the best over the answers. ``rouge_l``: ROUGE-L's F-measure
(Lin 2004, section 3.1) over lower-case words without stemming, the best over the answers. ``match_all``, ``match_any``:
RULER's string matches (arXiv 2404.06654). ``recall``: as ``match_all``, but whole words only. ``exact``: the bundled
tasks' own.

ROUGE-L is written here: it is one longest common subsequence, and rouge-score would bring nltk and absl-py.
"""

import re
import string
from collections import Counter
from collections.abc import Callable, Sequence
from typing import Final

from nbkv.errors import BadOption, closest

_ARTICLES = re.compile(r"\b(a|an|the)\b")
_MARKS = str.maketrans("", "", string.punctuation)


def normal(text: str) -> str:
    """Write runs of whitespace as one space; drop it at both ends, and ``. , ; : ! ?`` at the end."""
    return re.sub(r"[\s.,;:!?]+$", "", " ".join(text.split()))


def is_correct(text: str, answers: Sequence[str]) -> bool:
    """Whether the text is the answers in their order, after ``normal``; case counts."""
    return normal(text) == normal(" ".join(answers))


def exact(text: str, answers: Sequence[str]) -> float:
    """Return 1 if ``is_correct``, else 0."""
    return float(is_correct(text, answers))


def squad_normal(text: str) -> str:
    """Lower the case, drop punctuation, the articles a, an, the, and extra white space."""
    return " ".join(_ARTICLES.sub(" ", text.lower().translate(_MARKS)).split())


def em(text: str, answers: Sequence[str]) -> float:
    """Return 1 if the text equals an answer after ``squad_normal``, else 0."""
    return float(squad_normal(text) in {squad_normal(answer) for answer in answers})


def f1(text: str, answers: Sequence[str]) -> float:
    """Return the harmonic mean of precision and recall over tokens after ``squad_normal``, for the best answer."""
    said = squad_normal(text).split()
    return max(_f1(said, squad_normal(answer).split()) for answer in answers)


def _f1(said: list[str], wanted: list[str]) -> float:
    if not said or not wanted:
        return float(said == wanted)
    return _harmonic((Counter(said) & Counter(wanted)).total(), len(said), len(wanted))


def rouge_l(text: str, answers: Sequence[str]) -> float:
    """Return ROUGE-L's F-measure (beta 1) for the best answer."""
    said = re.findall(r"\w+", text.lower())
    return max(_rouge_l(said, re.findall(r"\w+", answer.lower())) for answer in answers)


def _rouge_l(said: list[str], wanted: list[str]) -> float:
    return _harmonic(_longest_common(said, wanted), len(said), len(wanted)) if said and wanted else 0.0


def _longest_common(first: list[str], second: list[str]) -> int:
    """Return the length of the longest common subsequence."""
    lengths = [0] * (len(second) + 1)
    for word in first:
        before = 0  # the entry of the row above, one column to the left
        for column, other in enumerate(second, start=1):
            above = lengths[column]
            lengths[column] = before + 1 if word == other else max(above, lengths[column - 1])
            before = above
    return lengths[-1]


def _harmonic(shared: int, said: int, wanted: int) -> float:
    return 2 * shared / (said + wanted)  # of shared / said and shared / wanted


def match_all(text: str, answers: Sequence[str]) -> float:
    """Return the share of the answers that stand in the text, whatever their case; an answer may be part of a word."""
    return sum(answer.lower() in text.lower() for answer in answers) / len(answers)


def match_any(text: str, answers: Sequence[str]) -> float:
    """Return 1 if one of the answers stands in the text, whatever its case, else 0."""
    return float(any(answer.lower() in text.lower() for answer in answers))


def recall(text: str, answers: Sequence[str]) -> float:
    """Return the share of the answers whose words stand in the text, whole and side by side."""
    said = _padded(text)
    return sum(_padded(answer) in said for answer in answers) / len(answers)


def _padded(text: str) -> str:
    words = " ".join(re.findall(r"\w+", text.lower()))
    return f" {words} "


METRICS: Final[dict[str, Callable[[str, Sequence[str]], float]]] = {
    metric.__name__: metric for metric in (exact, em, f1, rouge_l, match_all, match_any, recall)
}


def check_metrics(names: Sequence[str]) -> tuple[str, ...]:
    """Return the names; raises ``BadOption`` for one that is no metric, and for none at all."""
    if isinstance(names, str) or not names:
        message = f"metrics={names!r}: a list of names (known: {', '.join(METRICS)})"
        raise BadOption(message)
    for name in names:
        if name not in METRICS:
            message = f"unknown metric {name!r}{closest(name, list(METRICS))} (known: {', '.join(METRICS)})"
            raise BadOption(message)
    return tuple(names)
