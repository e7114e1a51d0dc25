"""The magics: each parses its line, calls the Python interface, and returns an object that shows itself."""

from nbkv.magics.commands.prompts import PromptMagics
from nbkv.magics.commands.sessions import SessionMagics
from nbkv.magics.commands.views import ViewMagics


class KVMagics(PromptMagics, SessionMagics, ViewMagics):
    """Defaults of the magics."""

    magics = {  # noqa: RUF012  (as IPython's own)
        kind: PromptMagics.magics[kind] | SessionMagics.magics[kind] | ViewMagics.magics[kind]
        for kind in ("line", "cell")
    }
