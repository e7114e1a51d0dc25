"""The command line: each command calls the Python spelling beside it and prints what it returns."""

from __future__ import annotations

import argparse
import json
import logging
import sys
import textwrap
from pathlib import Path
from typing import TYPE_CHECKING, Any

from nbkv.cli import experiments, stores
from nbkv.cli.answers import FAILED, INTERRUPTED, OK, USAGE, add_place, width
from nbkv.cli.answers import say as _say
from nbkv.errors import NbkvError

if TYPE_CHECKING:
    from collections.abc import Sequence

_EXAMPLES = {
    "demo": "demo",
    "run": "run experiment.ipynb -p strategy prefix --grid grid.yaml -o runs",
    "report": "report runs",
    "bench": "bench ttft.prefix --rounds 3 --json figures.json",
    "verify": "verify smollm2 -s prefix -s 'cacheblend(budget=0.2)'",
    "certify": "certify smollm2 --prompts questions.jsonl --max-kl 0.1",
    "doctor": "doctor --plan smollm2",
    "list": "list --markdown",
    "replay": "replay requests.jsonl --size 200k --size inf --policy lru",
    "store": "store ls disk:~/.cache/nbkv",
}


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command; return 0, or 1 if what it ran failed, or 2 if it was asked for something that cannot be."""
    options = _parser().parse_args(arguments)
    progress = logging.StreamHandler(sys.stderr)
    logger = logging.getLogger("nbkv")
    logger.addHandler(progress)
    logger.setLevel(logging.INFO)
    try:
        code: int = options.command(options)
    except NbkvError as error:
        sys.stderr.write(f"nbkv: {error}\n")
        code = USAGE
    except KeyboardInterrupt as stop:
        if (found := getattr(stop, "result", None)) is not None:
            _say(repr(found))
        sys.stderr.write("nbkv: interrupted\n")
        code = INTERRUPTED
    finally:
        logger.removeHandler(progress)
    return code


def bench(options: argparse.Namespace) -> int:
    """Measure by name, side by side with the baselines; ``--json`` also writes the rows."""
    from nbkv.bench import run, table

    given = {"shape": options.shape, "context": options.context, "rounds": options.rounds, "peers": options.peers}
    rows = run(options.names, **given)
    _say(table(rows))
    if options.json:
        Path(options.json).write_text(json.dumps([row.to_dict() for row in rows], indent=1) + "\n", encoding="utf-8")
    return FAILED if any(row.refused for row in rows) else OK


def verify(options: argparse.Namespace) -> int:
    """Check a model and strategies on it against the model's own plain forward."""
    import nbkv
    from nbkv.registry import strategies

    kwargs = {"device_map": "auto"} if options.device == "map" else {}
    device = "auto" if kwargs else options.device
    with nbkv.load(options.model, strategy="full", device=device, dtype=options.dtype, model_kwargs=kwargs) as session:
        report = session.verify(options.strategies or strategies.names())
        record = session.adapter.record
        took = "none" if record is None else f"{record.seconds:.2f} s"
        _say(repr(report))
        _say(f"self-check at load: {took}; notes: {'; '.join(session.adapter.notes) or 'none'}")
    if options.json:
        Path(options.json).write_text(json.dumps(report.to_dict(), indent=1) + "\n", encoding="utf-8")
    return OK if report.ok else FAILED


def certify(options: argparse.Namespace) -> int:
    """Find the cheapest strategy whose error holds a bound on the user's own prompts; fail if none does."""
    import nbkv
    from nbkv.tasks import prompt_file

    prompts = prompt_file(options.prompts, n=options.n, seed=options.seed)
    asked = ",".join(options.strategies) or None
    with nbkv.load(options.model, strategy="full", device=options.device, dtype=options.dtype) as session:
        given = {"max_kl": options.max_kl, "alpha": options.alpha, "rate": options.rate, "sink": options.sink}
        certificate = session.certify(prompts, strategies=asked, **given)
    _say(repr(certificate))
    if options.json:
        Path(options.json).write_text(json.dumps(certificate.to_dict(), indent=1) + "\n", encoding="utf-8")
    return OK if certificate.ok else FAILED


def doctor(options: argparse.Namespace) -> int:
    """Show what nbkv finds here; with ``--plan`` what holding older tokens costs on a model, form by form."""
    from nbkv.doctor import health

    if options.plan is None:
        found = health()
        _say(repr(found))
        return OK if found.ok else FAILED
    import nbkv

    with nbkv.load(options.plan, strategy="full", device=options.device, dtype=options.dtype) as session:
        plan = session.plan(options.tokens)
    _say(repr(plan))
    if options.json:
        Path(options.json).write_text(json.dumps(plan.to_dict(), indent=1) + "\n", encoding="utf-8")
    return OK


def list_strategies(options: argparse.Namespace) -> int:
    """Show every strategy there is, the bundled and the installed ones."""
    import nbkv

    frame = nbkv.strategies()
    _say(markdown(frame) if options.markdown else _entries(frame))
    return OK


def markdown(frame: Any) -> str:  # noqa: ANN401  (a DataFrame; pandas is imported where it is used)
    """Return a DataFrame as a Markdown table."""
    rows = [[str(name) for name in frame.columns], ["---"] * len(frame.columns)]
    rows += [
        [" ".join(str(value).replace("|", "\\|").split()) for value in row] for row in frame.itertuples(index=False)
    ]
    return "\n".join(f"| {' | '.join(row)} |" for row in rows)


def _parser() -> argparse.ArgumentParser:
    from nbkv import __version__

    parser = argparse.ArgumentParser(prog="nbkv", description="KV-cache reuse for language models in Jupyter.")
    parser.add_argument("--version", action="version", version=f"nbkv {__version__}")
    commands = parser.add_subparsers(required=True, metavar="COMMAND")

    experiments.add(commands)
    one = commands.add_parser("bench", help="measure side by side with the baselines")
    one.add_argument("names", nargs="*", metavar="NAME", help="which benchmarks (all)")
    one.add_argument("--shape", help="another model shape: s06, tiny or mini")
    one.add_argument("--context", type=int, help="cached tokens (each benchmark's own number, mostly 2048)")
    one.add_argument("--rounds", type=int, default=5, help="rounds after warm-up (%(default)s)")
    one.add_argument("--no-peers", dest="peers", action="store_false", help="leave out what pip would have to install")
    one.add_argument("--json", metavar="FILE", help="also write the rows as JSON")
    one.set_defaults(command=bench)

    one = commands.add_parser("verify", help="check a model, and strategies on it, against its own plain forward")
    one.add_argument("model", metavar="MODEL", help="a known name, a hub id, a folder or a .gguf file")
    told = "a strategy to check; may come again (all)"
    one.add_argument("-s", "--strategy", dest="strategies", action="append", default=[], metavar="STRATEGY", help=told)
    one.add_argument("--device", default="auto", help="cpu, cuda, cuda:N, or map to spread it over all (%(default)s)")
    one.add_argument("--dtype", default="auto", help="float32, bfloat16 or float16 (%(default)s)")
    one.add_argument("--json", metavar="FILE", help="also write the table as JSON")
    one.set_defaults(command=verify)

    _add_certify(commands)
    stores.add_replay(commands)
    stores.add_store(commands)

    one = commands.add_parser("doctor", help="what nbkv finds on this machine; --plan: what forms of KV cost here")
    told = "measure every form older tokens can be held in, on this model (tiny)"
    one.add_argument("--plan", nargs="?", const="tiny", metavar="MODEL", help=told)
    one.add_argument("--tokens", type=int, default=1024, help="how many older tokens (%(default)s)")
    add_place(one)
    one.add_argument("--json", metavar="FILE", help="also write the plan as JSON")
    one.set_defaults(command=doctor)

    one = commands.add_parser("list", help="the strategies there are")
    one.add_argument("--markdown", action="store_true", help="as the table in the README")
    one.set_defaults(command=list_strategies)
    for name, told in _EXAMPLES.items():
        commands.choices[name].epilog = f"example: nbkv {told}"
    return parser


def _add_certify(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    one = commands.add_parser("certify", help="the cheapest reuse whose error holds a bound on your own prompts")
    one.add_argument("model", metavar="MODEL", help="a known name, a hub id, a folder or a .gguf file")
    told = "JSON lines with chunks and question, or with prompt; or one prompt a line"
    one.add_argument("--prompts", required=True, metavar="FILE", help=told)
    told = "nats: the mean KL from full over an answer that is still good"
    one.add_argument("--max-kl", required=True, type=float, metavar="E", help=told)
    told = "the chance of a wrong certificate (%(default)s)"
    one.add_argument("--alpha", type=float, default=0.1, metavar="A", help=told)
    told = "the share of prompts that may be above E (%(default)s)"
    one.add_argument("--rate", type=float, default=0.05, metavar="R", help=told)
    told = "a strategy to try; may come again (prefix, and each chunk strategy at falling budgets)"
    one.add_argument("-s", "--strategy", dest="strategies", action="append", default=[], metavar="STRATEGY", help=told)
    one.add_argument("-n", type=int, metavar="N", help="so many of the prompts, drawn at random (all)")
    one.add_argument("--seed", type=int, default=0, help="of that draw (%(default)s)")
    one.add_argument("--sink", default="auto", help="what chunks are encoded behind (%(default)s)")
    add_place(one)
    one.add_argument("--json", metavar="FILE", help="also write the certificate as JSON")
    one.set_defaults(command=certify)


def _entries(frame: Any) -> str:  # noqa: ANN401  (a DataFrame; pandas is imported where it is used)
    """Return one entry a strategy, its words wrapped to the terminal."""
    lines = []
    for name, family, paper, exact, given, told in frame.itertuples(index=False):
        about = filter(None, (family, "exact" if exact else "approximate", paper))
        lines += textwrap.wrap(f"{name}  ({', '.join(about)})", width(), subsequent_indent="    ")
        for words in filter(None, (told, given and f"options: {given}")):
            lines += textwrap.wrap(words, width(), initial_indent="    ", subsequent_indent="    ")
    return "\n".join(lines)
