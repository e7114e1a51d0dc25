"""Commands about stores: what they hold, cache files, and what a request log would have hit."""

from __future__ import annotations

import argparse
import json
from pathlib import Path

from nbkv.cli.answers import FAILED, OK, add_place, say


def store(options: argparse.Namespace) -> int:
    """List, check or clear up the tiers of a store."""
    from nbkv.show.units import plural, size
    from nbkv.stores import listing

    tiers = listing.open_tiers(options.spec)
    if options.action == "ls":
        rows = listing.listing(tiers)
        total = f"{plural(len(rows), 'entry', 'entries')}, {size(int(rows['bytes'].sum()))}"
        say(rows.assign(bytes=rows["bytes"].map(size)).to_string(index=False) if len(rows) else "no entries")
        say(total)
        return OK
    if options.action == "gc":
        for name, entries, nbytes in listing.collect(tiers):
            say(f"{name}: {entries} removed, {size(nbytes)} freed")
        return OK
    wrong = listing.damaged(tiers)
    for name, key, why in wrong:
        say(f"{name}: {key}: {why}")
    say(f"{plural(sum(len(tier) for tier in tiers), 'entry', 'entries')}, {len(wrong)} damaged")
    return FAILED if wrong else OK


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
    say(repr(found))
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
        say(repr(session.export(options.file, [name for name, _ in options.chunks], prefix=prefix)))
    return OK


def import_store(options: argparse.Namespace) -> int:
    """Take a cache file into a store that outlives this process, once its golden rows agree."""
    import nbkv

    with nbkv.load(options.model, store=options.store, device=options.device, dtype=options.dtype) as session:
        say(repr(session.import_(options.file)))
    return OK


def add_replay(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add ``nbkv replay``."""
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
    add_place(one)
    one.add_argument("--json", metavar="FILE", help="also write the table as JSON")
    one.add_argument("--svg", metavar="FILE", help="also draw the hit rate over the size, a line a policy")
    one.set_defaults(command=replay)


def add_store(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add ``nbkv store`` and its actions."""
    stores = commands.add_parser("store", help="what stores on disk, Redis or elsewhere hold; cache files")
    actions = stores.add_subparsers(required=True, metavar="ACTION", dest="action")
    for name, told in (("ls", "list it"), ("verify", "read every byte of it"), ("gc", "clear it up")):
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
        add_place(one)
        one.set_defaults(command=command)
