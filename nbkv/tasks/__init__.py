"""Evaluation tasks: seeded generators of notes and questions, and their scoring.

``ledger``, ``report`` and ``chat`` write text in the closed vocabulary of the bundled readers; ``evaluate`` asks the
questions in a session and scores the answers by exact match.
"""

from nbkv.tasks.chat import chat
from nbkv.tasks.evaluate import evaluate
from nbkv.tasks.items import Dialogue, Evidence, Item, Place
from nbkv.tasks.ledger import ledger
from nbkv.tasks.report import report

__all__ = ["Dialogue", "Evidence", "Item", "Place", "chat", "evaluate", "ledger", "report"]
