"""The command line: each command calls the Python spelling beside it and prints what it returns."""

from __future__ import annotations

import argparse
import ast
import json
import logging
import sys
from importlib.metadata import distribution
from pathlib import Path
from typing import TYPE_CHECKING, Any

from nbkv.errors import LoadError, NbkvError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from nbkv.sweep import Sweep

_QUICKSTART = "00_quickstart.ipynb"

OK, FAILED, USAGE, INTERRUPTED = 0, 1, 2, 130

# What the quickstart records, as the demo shows it; anything else it records is shown as it is.
_DEMO = {
    "hit_rate": ("hit rate", "{:.1%}"),
    "ttft_full_s": ("time to first token, computed in full (s)", "{:.3f}"),
    "ttft_reuse_s": ("time to first token, with reuse (s)", "{:.3f}"),
    "speedup": ("speedup", "{:.1f} x"),
    "identical": ("same answer as in full", "{}"),
    "correct": ("questions answered right", "{:.0%}"),
    "chat_model": ("who talked in the chat", "{}"),
    "chat_hit_rate": ("hit rate of the chat's last turn", "{:.1%}"),
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
    except KeyboardInterrupt:
        sys.stderr.write("nbkv: interrupted\n")
        code = INTERRUPTED
    finally:
        logger.removeHandler(progress)
    return code


def demo(options: argparse.Namespace) -> int:
    """Run the quickstart notebook on the bundled model; show what reuse did to the time to first token."""
    from nbkv.sweep import run

    # the same everywhere, and in a minute: whatever pretrained models there are
    sweep = run(quickstart(), {"chat_model": "tiny"}, out_dir=options.out)
    if not sweep.failed:
        _say(_demo_table(sweep.runs[0].records))
    _say(f"report: {sweep.report}")
    return FAILED if sweep.failed else OK


def run_notebooks(options: argparse.Namespace) -> int:
    """Execute notebooks, over a grid if one is given, and gather what they record."""
    from nbkv.sweep import read_grid, run

    grid = read_grid(options.grid) if options.grid else None
    parameters = {name: _value(text) for name, text in options.parameter}
    sweep = run(options.notebooks, parameters, grid, options.out)
    _say(_table(sweep))
    _say(f"results: {sweep.results}\nreport: {sweep.report}")
    return FAILED if sweep.failed else OK


def report_folder(options: argparse.Namespace) -> int:
    """Write the table and the page of a folder of runs anew."""
    from nbkv.sweep import report

    sweep = report(options.folder)
    _say(f"results: {sweep.results}\nreport: {sweep.report}")
    return OK


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


def replay(options: argparse.Namespace) -> int:
    """Replay a request log through simulated stores; show what caches of which size and policy would have hit."""
    from contextlib import nullcontext

    import nbkv
    from nbkv.traces import LowerTier

    given = {"device": options.device, "dtype": options.dtype}
    named = options.model is not None
    with nbkv.load(options.model, strategy="full", **given) if named else nullcontext() as session:
        found = nbkv.replay(
            options.log,
            sizes=options.sizes or ["inf"],
            policies=options.policies or ["lru"],
            below=[LowerTier(name, size, rate) for name, size, rate in options.below],
            session=session,
        )
    _say(repr(found))
    if options.json:
        Path(options.json).write_text(json.dumps(found.to_dict(), indent=1) + "\n", encoding="utf-8")
    if options.svg:
        Path(options.svg).write_text(found.svg(), encoding="utf-8")
    return OK


def export_store(options: argparse.Namespace) -> int:
    """Encode text files as chunks, or as a prefix, and write their KV to a cache file."""
    import nbkv
    from nbkv.tasks.files.records import read_text

    accepted = "a file of plain text"
    with nbkv.load(options.model, store=options.store, device=options.device, dtype=options.dtype) as session:
        for name, path in options.chunks:
            session.chunk(read_text(path, accepted), name=name)
        prefix = None if options.prefix is None else read_text(options.prefix, accepted)
        _say(repr(session.export(options.file, [name for name, _ in options.chunks], prefix=prefix)))
    return OK


def import_store(options: argparse.Namespace) -> int:
    """Take a cache file into a store that outlives this process, once its golden rows agree."""
    import nbkv

    with nbkv.load(options.model, store=options.store, device=options.device, dtype=options.dtype) as session:
        _say(repr(session.import_(options.file)))
    return OK


def store(options: argparse.Namespace) -> int:
    """List, check or clear up the tiers of a store."""
    from nbkv.show.units import size
    from nbkv.stores import listing

    tiers = listing.open_tiers(options.spec)
    if options.action == "ls":
        rows = listing.listing(tiers)
        total = f"{len(rows)} entries, {size(int(rows['bytes'].sum()))}"
        _say(rows.assign(bytes=rows["bytes"].map(size)).to_string(index=False) if len(rows) else "no entries")
        _say(total)
        return OK
    if options.action == "gc":
        for name, entries, nbytes in listing.collect(tiers):
            _say(f"{name}: {entries} removed, {size(nbytes)} freed")
        return OK
    wrong = listing.damaged(tiers)
    for name, key, why in wrong:
        _say(f"{name}: {key}: {why}")
    _say(f"{sum(len(tier) for tier in tiers)} entries, {len(wrong)} damaged")
    return FAILED if wrong else OK


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
    _say(markdown(frame) if options.markdown else frame.to_string(index=False))
    return OK


def markdown(frame: Any) -> str:  # noqa: ANN401  (a DataFrame; pandas is imported where it is used)
    """Return a DataFrame as a Markdown table."""
    rows = [[str(name) for name in frame.columns], ["---"] * len(frame.columns)]
    rows += [
        [" ".join(str(value).replace("|", "\\|").split()) for value in row] for row in frame.itertuples(index=False)
    ]
    return "\n".join(f"| {' | '.join(row)} |" for row in rows)


def quickstart() -> Path:
    """Return the quickstart notebook: the checkout's, or the copy that was installed with the package."""
    path = Path(__file__).resolve().parents[1] / "notebooks" / _QUICKSTART
    if path.is_file():
        return path
    for installed in distribution("nbkv").files or []:
        if installed.name == _QUICKSTART:
            return Path(str(installed.locate())).resolve()
    message = f"{_QUICKSTART} was not installed with nbkv: install nbkv again"
    raise LoadError(message)


def _parser() -> argparse.ArgumentParser:
    from nbkv import __version__

    parser = argparse.ArgumentParser(prog="nbkv", description="KV-cache reuse for language models in Jupyter.")
    parser.add_argument("--version", action="version", version=f"nbkv {__version__}")
    commands = parser.add_subparsers(required=True, metavar="COMMAND")

    one = commands.add_parser("demo", help="the quickstart notebook on the bundled model")
    one.add_argument("-o", "--out", default="runs/demo", metavar="DIR", help="where the report goes (%(default)s)")
    one.set_defaults(command=demo)

    one = commands.add_parser("run", help="execute notebooks and gather what they record")
    one.add_argument("notebooks", nargs="+", metavar="NOTEBOOK")
    told = "a parameter of the notebooks; may come again"
    one.add_argument("-p", "--parameter", nargs=2, action="append", default=[], metavar=("KEY", "VALUE"), help=told)
    one.add_argument("--grid", metavar="FILE.yaml", help="name: [values], every combination")
    one.add_argument("-o", "--out", default="runs", metavar="DIR", help="where results and report go (%(default)s)")
    one.set_defaults(command=run_notebooks)

    one = commands.add_parser("report", help="write results.csv and report.html of a folder anew")
    one.add_argument("folder", metavar="DIR")
    one.set_defaults(command=report_folder)

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
    _add_replay(commands)
    _add_store(commands)

    one = commands.add_parser("doctor", help="what nbkv finds on this machine; --plan: what forms of KV cost here")
    told = "measure every form older tokens can be held in, on this model (tiny)"
    one.add_argument("--plan", nargs="?", const="tiny", metavar="MODEL", help=told)
    one.add_argument("--tokens", type=int, default=1024, help="how many older tokens (%(default)s)")
    one.add_argument("--device", default="auto", help="cpu, cuda or cuda:N (%(default)s)")
    one.add_argument("--dtype", default="auto", help="float32, bfloat16 or float16 (%(default)s)")
    one.add_argument("--json", metavar="FILE", help="also write the plan as JSON")
    one.set_defaults(command=doctor)

    one = commands.add_parser("list", help="the strategies there are")
    one.add_argument("--markdown", action="store_true", help="as the table in the README")
    one.set_defaults(command=list_strategies)
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
    one.add_argument("--device", default="auto", help="cpu, cuda or cuda:N (%(default)s)")
    one.add_argument("--dtype", default="auto", help="float32, bfloat16 or float16 (%(default)s)")
    one.add_argument("--json", metavar="FILE", help="also write the certificate as JSON")
    one.set_defaults(command=certify)


def _add_replay(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    one = commands.add_parser("replay", help="what a cache of which size and policy would have hit, from a request log")
    told = "JSON lines with hash_ids and input_length (Mooncake), with prompt_ids, or with prompt (then --model)"
    one.add_argument("log", metavar="TRACE", help=told)
    told = "tokens (200k), bytes (4GiB, with --model) or inf; may come again (inf)"
    one.add_argument("--size", dest="sizes", action="append", default=[], metavar="SIZE", help=told)
    told = "lru, lfu, cost or rank; may come again (lru)"
    one.add_argument("--policy", dest="policies", action="append", default=[], metavar="POLICY", help=told)
    told = "a tier below the first, read at so many bytes a second; may come again"
    one.add_argument("--below", nargs=3, action="append", default=[], metavar=("NAME", "SIZE", "BYTES/S"), help=told)
    told = "what reads prompts, says what a token takes, and is timed for the TTFT to expect"
    one.add_argument("--model", metavar="MODEL", help=told)
    one.add_argument("--device", default="auto", help="cpu, cuda or cuda:N (%(default)s)")
    one.add_argument("--dtype", default="auto", help="float32, bfloat16 or float16 (%(default)s)")
    one.add_argument("--json", metavar="FILE", help="also write the table as JSON")
    one.add_argument("--svg", metavar="FILE", help="also draw the hit rate over the size, a line a policy")
    one.set_defaults(command=replay)


def _add_store(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    stores = commands.add_parser("store", help="what a store on disk, Redis or elsewhere holds; KV to and from files")
    actions = stores.add_subparsers(required=True, metavar="ACTION", dest="action")
    for name, told in (("ls", "list it"), ("verify", "read every byte"), ("gc", "clear it up")):
        one = actions.add_parser(name, help=told)
        one.add_argument("spec", metavar="SPEC", help="disk:PATH, redis://HOST:PORT/DB, or any URL of fsspec")
        one.set_defaults(command=store)
    kept = "where KV are kept meanwhile, such as disk:PATH (%(default)s)"
    for name, command, told, where in (
        ("export", export_store, "read texts once and write their KV to a file", kept),
        ("import", import_store, "take such a file into a store, once its golden rows agree", "such as disk:PATH"),
    ):
        one = actions.add_parser(name, help=told)
        one.add_argument("model", metavar="MODEL", help="a known name, a hub id, a folder or a .gguf file")
        one.add_argument("file", metavar="FILE", help="the cache file")
        if name == "export":
            again = "a text file as a chunk of that name; may come again"
            one.add_argument(
                "--chunk", dest="chunks", nargs=2, action="append", default=[], metavar=("NAME", "TEXT"), help=again
            )
            one.add_argument("--prefix", metavar="TEXT", help="a text file as the beginning of prompts")
            one.add_argument("--store", default="memory", metavar="STORE", help=where)
        else:
            one.add_argument("--store", required=True, metavar="STORE", help=where)
        one.add_argument("--device", default="auto", help="cpu, cuda or cuda:N (%(default)s)")
        one.add_argument("--dtype", default="auto", help="float32, bfloat16 or float16 (%(default)s)")
        one.set_defaults(command=command)


def _table(sweep: Sweep) -> str:
    frame = sweep.to_frame().drop(columns=["notebook", "error"])
    return str(frame.to_string(index=False, float_format=lambda value: f"{value:.4g}"))


def _demo_table(records: dict[str, Any]) -> str:
    lines = [_DEMO.get(name, (name, "{}")) for name in records]
    width = max(len(label) for label, _ in lines)
    values = [form.format(value) for (_, form), value in zip(lines, records.values(), strict=True)]
    return "\n".join(f"{label:<{width}}  {value:>10}" for (label, _), value in zip(lines, values, strict=True))


def _value(text: str) -> Any:  # noqa: ANN401  (a plain value)
    """Return a parameter as Python reads it (``3``, ``1e-3``, ``True``, ``[1, 2]``), or else as the text it is."""
    try:
        return ast.literal_eval(text)
    except (ValueError, SyntaxError, MemoryError, RecursionError):
        return text


def _say(text: str) -> None:
    sys.stdout.write(text + "\n")


if __name__ == "__main__":
    sys.exit(main())
