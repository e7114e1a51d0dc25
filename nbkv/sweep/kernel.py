"""The kernel notebooks are executed in: this very interpreter, whatever kernels are installed under what names."""

from __future__ import annotations

import zmq
from ipykernel.kernelspec import get_kernel_dict
from jupyter_client.kernelspec import KernelSpec
from jupyter_client.manager import AsyncKernelManager
from traitlets import default


class ThisInterpreter(AsyncKernelManager):
    """Starts ipykernel under ``sys.executable`` instead of looking a kernel's name up."""

    @property
    def kernel_spec(self) -> KernelSpec:
        """Return the specification of a kernel of this interpreter."""
        # no panel is there to be told, and nbclient would warn of a comm that it does not know
        # what its log has to say below a crash (that it was interrupted to end it) is no output of the sweep's cell
        return KernelSpec(**get_kernel_dict(extra_arguments=["--log-level=50"]), env={"NBKV_PANEL": "off"})

    @default("transport_encryption")
    def _encrypted(self) -> str:
        # Other users of the machine can reach loopback ports.
        return "auto" if zmq.has("curve") else "disabled"
