"""The magics: each parses its line, calls the Python interface, and returns an object that shows itself."""

from __future__ import annotations

import sys
from argparse import Namespace
from collections.abc import Callable
from keyword import iskeyword
from typing import TYPE_CHECKING, Any, TypeVar, cast

from IPython.core.magic import Magics, line_cell_magic, line_magic, magics_class
from traitlets import Float, Int

from nbkv.errors import BadOption
from nbkv.magics.complete import matcher
from nbkv.magics.listing import Listing, listing
from nbkv.magics.options import command, option
from nbkv.magics.progress import CellOutput, CellProgress
from nbkv.magics.sessions import Sessions
from nbkv.magics.stream_output import Live, has_front_end, live, shown_result, shown_turn
from nbkv.magics.template import fill, prompt_of, spelled, template_kwargs
from nbkv.magics.views import Views
from nbkv.show.units import plural
from nbkv.stopping import interruption

if TYPE_CHECKING:
    import pandas as pd
    from IPython.core.interactiveshell import InteractiveShell

    from nbkv.families.residual.planner import Plan
    from nbkv.lab import Lab
    from nbkv.result import Chunk, Comparison, Result
    from nbkv.session.chat import Chat
    from nbkv.session.session import Session
    from nbkv.session.stream import Stream
    from nbkv.session.verify import Report
    from nbkv.show import Plot
    from nbkv.widgets.conversation import Conversation

Kept = TypeVar("Kept")
LAST = "_kv"  # the notebook's variable for the last Result or Comparison
STRATEGY = option("-s", "--strategy", kind="strategy", help="a strategy, as name or name(option=value)")
MAX_NEW = option("-n", "--max-new", type=int, help="most tokens to generate (default: %%config KVMagics.max_new, 64)")
UNMASK = option("--unmask", metavar="RULE", help="how a block-diffusion model fills a block: dynamic(threshold=0.9), …")
CHAT = option("--chat", action="store_true", help="send the prompt through the chat template (default if there is one)")
RAW = option("--raw", action="store_true", help="send the prompt as it stands")
TEMPLATE = option(
    "--template-kwargs",
    action="append",
    default=[],
    metavar="NAME=VALUE",
    help="a variable of the chat template: enable_thinking=False, tools=MY_TOOLS; may be repeated",
)
PREFILL = option("--prefill", metavar="TEXT", help="what the answer begins with (continue_final_message)")
OUT = option("--out", metavar="VAR", help="also keep what is returned in this variable")


@magics_class
class KVMagics(Magics):
    """Defaults of the magics."""

    max_new = Int(64, min=1, help="most tokens to generate").tag(config=True)
    temperature = Float(0.0, min=0.0, help="0 is greedy").tag(config=True)

    def __init__(self, shell: InteractiveShell) -> None:
        """Start without a session."""
        super().__init__(shell)
        self.shell: InteractiveShell = shell
        self.sessions = Sessions()
        self.shown = Views(shell)
        self.progress = CellProgress(shell)
        self.chats: dict[str, Chat] = {}  # by the name of their session
        self.on_screen: object = None  # what the running cell has shown already: it need not be shown again
        self.matcher = matcher(self)
        self.lab: Lab | None = None  # the panel's other end, where there is a front end

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
            args.name = _checked_name("--as", args.name)
        given = {key: getattr(args, key) for key in ("strategy", "store", "device", "dtype", "block_size")}
        options = {key: value for key, value in given.items() if value is not None}
        imports = "torch" not in sys.modules  # which takes seconds in which nothing can be drawn
        with self.progress.asked(at_once=imports, replaced=False):
            return self.sessions.load(args.model, args.name, **options)

    @line_cell_magic
    @command(
        STRATEGY,
        MAX_NEW,
        option("-t", "--temperature", type=float, help="0 is greedy (default: %%config KVMagics.temperature, 0)"),
        UNMASK,
        TEMPLATE,
        PREFILL,
        CHAT,
        RAW,
        option("--compare", nargs="?", const="", metavar="S,S", kind="strategies", help="compare strategies with full"),
        OUT,
        exclusive=("--chat", "--raw"),
        cell=True,
    )
    def kvgen(self, args: Namespace, text: str) -> Result | Comparison:
        r"""Run the cell as a prompt and show the answer as it comes; returns a Result.

        {{ name }} in the cell stands for a variable or a chunk; \{{ is a plain {{.
        """
        if args.compare is None:
            return self._generate(args, text)
        if args.temperature:
            message = "--compare measures greedy answers; leave --temperature out"
            raise BadOption(message)
        names = ",".join(filter(None, (args.compare, args.strategy)))
        return self._compare(args, text, names, repeat=1)

    @line_cell_magic
    @command(
        option("--new", action="store_true", help="begin a new conversation"),
        option("--system", metavar="TEXT", help="what the model is told before a new conversation"),
        option("--edit", type=int, metavar="TURN", help="ask the cell in place of this turn and all after it"),
        option("--keep-later", action="store_true", help="with --edit: change what was asked, keep what came after"),
        option("--drop-thinking", action="store_true", help="leave out the thinking of all answers so far"),
        STRATEGY,
        MAX_NEW,
        option("-t", "--temperature", type=float, help="0 is greedy (default: %%config KVMagics.temperature, 0)"),
        cell="optional",
    )
    def kvchat(self, args: Namespace, text: str | None) -> Chat:
        """Ask the cell as the next turn of a conversation; as a line magic show all turns, with a box to go on in.

        Each turn says how much of its prompt was reused and how much sooner the answer began.
        """
        session = self.sessions.current
        chat = self.chats.get(session.name)
        if chat is None or args.new or args.system is not None:
            chat = self.chats[session.name] = session.chat(args.system)
        if args.keep_later and (args.edit is None or text is None):
            message = "--keep-later is for a cell with --edit TURN: it says which turn the cell is put in place of"
            raise BadOption(message)
        if args.drop_thinking:
            chat.drop_thinking()
        if text is None:
            if has_front_end(self.shell):
                self.shown.show(self._conversation, chat)
                self.on_screen = chat
            return chat
        asked = self._asked(text, session)
        if args.keep_later:
            chat.edit(args.edit, asked)
            return chat
        from nbkv.session.conversation.asking import Asking  # noqa: PLC0415  (a session exists, so torch is there)

        asking = Asking(chat, asked, args.edit, **self._sampling(args))
        with live(self.shell) as view:
            result = self._streamed(asking.stream, view)
            view.end(shown_turn(chat) if asking.keep() else shown_result(result))
        self.on_screen = chat
        self._keep(result, None)
        return chat

    @line_cell_magic
    @command(option("name", metavar="NAME", help="what the chunk is called in {{ }}"), cell=True)
    def kvchunk(self, args: Namespace, text: str) -> Chunk:
        """Encode the cell's text once and keep it as a chunk, for use at any place of a prompt."""
        name = _checked_name("a chunk", args.name)
        return self.sessions.current.chunk(text.removesuffix("\n"), name=name)

    @line_cell_magic
    @command(
        option(
            "strategies", nargs="+", metavar="S,S", kind="strategies", help="strategies, separated by commas or spaces"
        ),
        MAX_NEW,
        option("--repeat", type=int, default=3, help="runs of each, of which the median counts (default: 3)"),
        UNMASK,
        TEMPLATE,
        PREFILL,
        CHAT,
        RAW,
        OUT,
        exclusive=("--chat", "--raw"),
        cell=True,
    )
    def kvcompare(self, args: Namespace, text: str) -> Comparison:
        """Run the cell's prompt under several strategies; returns a Comparison with full as the reference."""
        names = ",".join(filter(None, (word.strip(",") for word in args.strategies)))
        return self._compare(args, text, names, repeat=args.repeat)

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
    def kvstats(self, args: Namespace) -> Any:  # noqa: ANN401, ARG002  (an object that shows itself)
        """Show the running figures of the current session."""
        return self.sessions.current.stats

    @line_magic
    @command()
    def kvplot(self, args: Namespace) -> Plot:  # noqa: ARG002  (has no options but -h)
        """Plot the last comparison, or TTFT and hit rate over the requests of the current session."""
        from nbkv.result import Comparison  # noqa: PLC0415  (plots come late)
        from nbkv.show import comparison_plot, history_plot  # noqa: PLC0415

        last = self.shell.user_ns.get(LAST)
        if isinstance(last, Comparison):
            return comparison_plot(last.to_dict())
        rows = self.sessions.current.history().to_dict("records")
        if not rows:
            message = "nothing to plot yet: run a %%kvgen cell first"
            raise BadOption(message)
        return history_plot([{str(key): value for key, value in row.items()} for row in rows])

    @line_magic
    @command()
    def kvdash(self, args: Namespace) -> Any:  # noqa: ANN401, ARG002  (a view, which is None where it stands already)
        """Show the current session's figures while they change, with its strategy and budget at hand."""
        from nbkv.widgets import dashboard  # noqa: PLC0415  (anywidget comes late)

        return self.shown.show(dashboard, self.sessions.current)

    @line_magic
    @command()
    def kvplay(self, args: Namespace) -> Any:  # noqa: ANN401, ARG002  (as above)
        """Try prompts of the current session's chunks, in any order, under several strategies side by side."""
        from nbkv.widgets import playground  # noqa: PLC0415  (as above)

        return self.shown.show(playground, self.sessions.current)

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

    def after_cell(self, _: object = None) -> None:
        """Bring views up to date; what the cell has shown may be shown again from now on."""
        self.on_screen = None
        self.shown.after_cell()

    def _generate(self, args: Namespace, text: str) -> Result:
        session, prompt, asked = self._prepare(args, text)
        options = self._sampling(args) | asked | {"unmask": args.unmask}
        with live(self.shell) as view:
            result = self._streamed(session.stream(prompt, **options), view)
            view.end(shown_result(result))
        self.on_screen = result
        return self._keep(result, args.out)

    def _sampling(self, args: Namespace) -> dict[str, Any]:
        temperature = self.temperature if args.temperature is None else args.temperature
        return {"strategy": args.strategy, "temperature": temperature, "max_new_tokens": self._max_new(args)}

    def _asked(self, text: str, session: Session) -> Any:  # noqa: ANN401  (what a chat takes)
        parts = fill(text, self._variables(), session.chunks)
        prompt_of(parts, chat=False)  # says so if there is nothing to ask
        return parts if len(parts) > 1 else parts[0]

    def _conversation(self, chat: Chat) -> Conversation:
        from nbkv.widgets import conversation  # noqa: PLC0415  (anywidget comes late)

        session = self.sessions.current
        return conversation(session, chat, lambda text: self._asked(text, session))

    def _streamed(self, stream: Stream, view: Live) -> Result:
        """Draw an answer while it comes; an interrupt keeps and shows it as far as it came."""
        view.markdown = stream.markdown
        try:
            for piece in stream:
                view.add(piece)
        except KeyboardInterrupt:
            stream.close()  # it may have come between two pieces, while one was drawn
            raise self._broken_off(stream.result, view) from None
        return cast("Result", stream.result)

    def _compare(self, args: Namespace, text: str, names: str, repeat: int) -> Comparison:
        session, prompt, asked = self._prepare(args, text)
        options = asked | {"max_new_tokens": self._max_new(args), "unmask": args.unmask}
        given = names or [session.strategy]
        return self._keep(self._long(lambda: session.compare(prompt, given, repeat=repeat, **options)), args.out)

    def _long(self, work: Callable[[], Kept]) -> Kept:
        """Do long work with its progress in view; what it has found takes the place of that, also at an interrupt."""
        with self.progress.asked() as output:
            try:
                found = work()
            except KeyboardInterrupt as stop:
                if (partial := getattr(stop, "result", None)) is not None:
                    self._keep(partial, None)
                    self._show(partial, output)
                    raise interruption(partial, f"{stop}; {LAST} has what there was") from None
                raise
            self._show(found, output)
        return found

    def _show(self, found: object, output: CellOutput | None) -> None:
        if output is not None:
            data, metadata = self.shell.display_formatter.format(found)  # type: ignore[union-attr]  # every shell has one
            output.draw(data, metadata)
            self.on_screen = found

    def _prepare(self, args: Namespace, text: str) -> tuple[Session, Any, dict[str, Any]]:
        """Return the session, the cell's prompt for it, and what is asked of the chat template."""
        if args.out is not None:
            args.out = _checked_name("--out", args.out)
        session = self.sessions.current
        if args.chat and not session.has_template:
            message = (
                f"--chat: the tokenizer of {session.model_name} has no chat template "
                "(leave --chat out, and the cell is sent as it stands; %kvload smollm2 loads a model that has one)"
            )
            raise BadOption(message)
        variables = self._variables()
        parts, chat = fill(text, variables, session.chunks), session.has_template and not args.raw
        prompt = prompt_of(parts, chat=chat)
        asked: dict[str, Any] = {"template_kwargs": template_kwargs(args.template_kwargs, variables)}
        if args.prefill is not None:
            if not chat:
                message = "--prefill begins the answer of a chat template (without one, end the cell with it)"
                raise BadOption(message)
            prompt = [*prompt, {"role": "assistant", "content": args.prefill}]
            asked["continue_final_message"] = True
        return session, prompt, asked

    def _variables(self) -> dict[str, object]:
        return {name: value for name, value in self.shell.user_ns.items() if name not in {"In", "Out"}}

    def _max_new(self, args: Namespace) -> int:
        return int(self.max_new if args.max_new is None else args.max_new)

    def _keep(self, found: Kept, name: str | None) -> Kept:
        self.shell.push({LAST: found}, interactive=False)
        if name is not None:
            self.shell.push({name: found})
        return found

    def _broken_off(self, result: Result | None, view: Live) -> KeyboardInterrupt:
        """Keep and show what an interrupted answer has come to; what is raised keeps queued cells from starting."""
        if result is None:
            return interruption(None, "stopped before the first token")
        view.end(shown_result(self._keep(result, None)))
        return interruption(result, f"stopped after {plural(len(result.token_ids), 'token')}; {LAST} has them")


def _checked_name(what: str, name: str) -> str:
    """Return ``name`` as Python spells it."""
    if not name.isidentifier() or iskeyword(spelled(name)):
        message = f"{what} needs a plain name of letters, digits and underscores, not {name!r}"
        raise BadOption(message)
    return spelled(name)
