"""Magics of sessions: load, switch, check, close, and what their stores hold."""

from __future__ import annotations

import sys
from argparse import Namespace
from typing import TYPE_CHECKING

from IPython.core.magic import line_magic, magics_class

from nbkv.errors import BadOption
from nbkv.magics.commands.cell import STRATEGY, CellMagics, checked_name
from nbkv.magics.listing import Listing, listing
from nbkv.magics.options import command, option

if TYPE_CHECKING:
    import pandas as pd

    from nbkv.families.residual.planner import Plan
    from nbkv.session.session import Session
    from nbkv.session.verify import Report


@magics_class
class SessionMagics(CellMagics):
    """Magics that change which session is current, and how it works."""

    @line_magic
    @command(
        option("model", kind="model", help="a known name, a folder, a .gguf file, or a hub id"),
        STRATEGY,
        option("--store", kind="store", help="where KV is kept, for example memory?device=4GiB"),
        option("--device", help="auto, cpu, cuda or cuda:N"),
        option("--dtype", help="auto, float32, bfloat16 or float16"),
        option("--block-size", type=int, help="tokens that a block-diffusion model decodes together"),
        option("--as", dest="name", metavar="NAME", help="keep the former session open and give this one a name"),
    )
    def kvload(self, args: Namespace) -> Session:
        """Load a model and make it the current session; without --as the former one is closed afterwards."""
        if args.name is not None:
            args.name = checked_name("--as", args.name)
        given = {key: getattr(args, key) for key in ("strategy", "store", "device", "dtype", "block_size")}
        options = {key: value for key, value in given.items() if value is not None}
        imports = "torch" not in sys.modules  # which takes seconds in which nothing can be drawn
        with self.progress.asked(at_once=imports, replaced=False):
            return self.sessions.load(args.model, args.name, **options)

    @line_magic
    @command(
        option("strategy", nargs="?", kind="strategy", help="what the current session shall use from now on"),
        option("--session", metavar="NAME", kind="session", help="make this session current"),
    )
    def kvuse(self, args: Namespace) -> Session:
        """Switch the strategy of the current session, or switch to another session."""
        if args.strategy is None and args.session is None:
            message = "%kvuse needs a strategy or --session NAME"
            raise BadOption(message)
        if args.session is not None:
            self.sessions.use(args.session)
        session = self.sessions.current
        if args.strategy is not None:
            session.use(args.strategy)
        return session

    @line_magic
    @command(option("action", nargs="?", metavar="SPEC | clear | ls", kind="store", help="what to do with the store"))
    def kvstore(self, args: Namespace) -> pd.DataFrame:
        """Show the tiers of the store; with SPEC replace it, with clear empty it, with ls list what it holds."""
        from nbkv.magics.store_table import StoreTable  # noqa: PLC0415  (pandas comes late)

        session = self.sessions.current
        if args.action == "ls":
            return StoreTable(session.store.ls())
        if args.action == "clear":
            session.store.clear()
        elif args.action is not None:
            session.use_store(args.action)
        return StoreTable(session.store.tiers)

    @line_magic
    @command(
        option(
            "strategies", nargs="*", metavar="STRATEGY", kind="strategies", help="strategies to check (default: in use)"
        )
    )
    def kvverify(self, args: Namespace) -> Report:
        """Check the model, and strategies on it, against the model's own plain forward; returns a Report."""
        from nbkv.strategy import split  # noqa: PLC0415  (it brings torch)

        wanted = [spec for word in args.strategies for spec in split(word)]
        return self._long(lambda: self.sessions.current.verify(wanted or None))

    @line_magic
    @command(option("-n", "--tokens", type=int, default=1024, help="how many older tokens are held (default: 1024)"))
    def kvplan(self, args: Namespace) -> Plan:
        """Measure what older tokens cost in each form of residual: bytes a token, time to restore; returns a Plan."""
        return self._long(lambda: self.sessions.current.plan(args.tokens))

    @line_magic
    @command()
    def kvlist(self, args: Namespace) -> Listing:  # noqa: ARG002  (as above)
        """List strategies, open sessions and bundled models."""
        return listing(self.sessions)

    @line_magic
    @command(option("name", nargs="?", kind="session", help="which one (default: the current)"))
    def kvclose(self, args: Namespace) -> None:
        """Close a session and free its model and KV."""
        self.sessions.current  # noqa: B018  (says so if nothing is open)
        name = args.name or self.sessions.current_name
        self.chats.pop(self.sessions.get(name).name, None)
        self.sessions.close(name)
        now = self.sessions.current_name
        sys.stdout.write(f"closed {name}{f'; the current session is now {now}' if now else ''}\n")
