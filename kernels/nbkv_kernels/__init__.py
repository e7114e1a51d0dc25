"""The kernels of KV reuse: each file has one public function, its torch reference, its Triton kernel and the launcher.

The reference is the CPU path; ``fused=True`` launches Triton on a CUDA device, or anywhere under
``TRITON_INTERPRET=1``. ``nbkv.ops`` decides which one runs.
"""

from nbkv_kernels._triton import runs_on
from nbkv_kernels.dense import dense_attention, with_sinks
from nbkv_kernels.kv_deviation import kv_deviation
from nbkv_kernels.merge_states import merge_states
from nbkv_kernels.project_kv import Projection, project_kv
from nbkv_kernels.rotate_gather import rotate_gather, turned
from nbkv_kernels.row_attention import row_attention
from nbkv_kernels.shared_prefix_attention import shared_prefix_attention

__all__ = [
    "Projection",
    "dense_attention",
    "kv_deviation",
    "merge_states",
    "project_kv",
    "rotate_gather",
    "row_attention",
    "runs_on",
    "shared_prefix_attention",
    "turned",
    "with_sinks",
]
