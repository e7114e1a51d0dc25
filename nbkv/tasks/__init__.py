"""Evaluation tasks: questions about text that comes in chunks, and the scoring of their answers.

``ledger``, ``report`` and ``chat`` write text in the closed vocabulary of the bundled readers; so do ``needle`` and
``trace``, which are for real models, as are the ``sums``, and ``agents``, which hands facts along chains of agents, for
both; ``hotpotqa``, ``musique`` and ``from_jsonl`` read real text from files; ``evaluate`` asks the questions in a
session and scores the answers. ``prompt_file`` reads prompts of any kind, with or without answers. ``tool_choice``,
``judge`` and ``last_words`` give choices: one of a few options is the answer. ``StepCheck`` says of an answer in steps
how good it is so far.
"""

from nbkv.tasks.chains.agents import AgentTask, agents
from nbkv.tasks.chat import chat
from nbkv.tasks.choices.choice import Choice, last_words
from nbkv.tasks.choices.judge import judge
from nbkv.tasks.choices.tool_choice import tool_choice
from nbkv.tasks.evaluate import evaluate
from nbkv.tasks.files.hotpotqa import hotpotqa
from nbkv.tasks.files.jsonl import from_jsonl
from nbkv.tasks.files.musique import musique
from nbkv.tasks.files.prompt_file import prompt_file
from nbkv.tasks.items import Dialogue, Evidence, Item, Place
from nbkv.tasks.ledger import ledger
from nbkv.tasks.needle import needle
from nbkv.tasks.report import report
from nbkv.tasks.steps.step_check import StepCheck
from nbkv.tasks.steps.sums import sums
from nbkv.tasks.trace import trace

__all__ = [
    "AgentTask",
    "Choice",
    "Dialogue",
    "Evidence",
    "Item",
    "Place",
    "StepCheck",
    "agents",
    "chat",
    "evaluate",
    "from_jsonl",
    "hotpotqa",
    "judge",
    "last_words",
    "ledger",
    "musique",
    "needle",
    "prompt_file",
    "report",
    "sums",
    "tool_choice",
    "trace",
]
