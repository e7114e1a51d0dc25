"""Magics of prompts: a cell is answered, asked in a conversation, kept as a chunk, or compared."""

from __future__ import annotations

from argparse import Namespace
from typing import TYPE_CHECKING, Any, cast

from IPython.core.magic import line_cell_magic, magics_class
from traitlets import Float, Int

from nbkv.errors import BadOption
from nbkv.magics.commands.cell import LAST, STRATEGY, CellMagics, checked_name
from nbkv.magics.options import command, option
from nbkv.magics.stream_output import Live, has_front_end, live, shown_result, shown_turn
from nbkv.magics.template import fill, prompt_of, template_kwargs
from nbkv.show.units import plural
from nbkv.stopping import interruption

if TYPE_CHECKING:
    from nbkv.result import Chunk, Comparison, Result
    from nbkv.session.chat import Chat
    from nbkv.session.session import Session
    from nbkv.session.stream import Stream
    from nbkv.widgets.conversation import Conversation

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
class PromptMagics(CellMagics):
    """Magics whose cell is a prompt, or a part of one."""

    max_new = Int(64, min=1, help="most tokens to generate").tag(config=True)
    temperature = Float(0.0, min=0.0, help="0 is greedy").tag(config=True)

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
        name = checked_name("a chunk", args.name)
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
        from nbkv.widgets.conversation import Conversation  # noqa: PLC0415  (anywidget comes late)

        session = self.sessions.current
        return Conversation(session, chat, lambda text: self._asked(text, session))

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

    def _prepare(self, args: Namespace, text: str) -> tuple[Session, Any, dict[str, Any]]:
        """Return the session, the cell's prompt for it, and what is asked of the chat template."""
        if args.out is not None:
            args.out = checked_name("--out", args.out)
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

    def _max_new(self, args: Namespace) -> int:
        return int(self.max_new if args.max_new is None else args.max_new)

    def _broken_off(self, result: Result | None, view: Live) -> KeyboardInterrupt:
        """Keep and show what an interrupted answer has come to; what is raised keeps queued cells from starting."""
        if result is None:
            return interruption(None, "stopped before the first token")
        view.end(shown_result(self._keep(result, None)))
        return interruption(result, f"stopped after {plural(len(result.token_ids), 'token')}; {LAST} has them")
