"""Kernel tests run in Triton's interpreter (TRITON_INTERPRET=1) or on a GPU; the references are tested anywhere."""

import pytest
import torch
from nbkv_kernels import runs_on

DEVICE = "cuda" if torch.cuda.is_available() else "cpu"


@pytest.fixture(params=[False, True], ids=["reference", "triton"])
def fused(request):
    if request.param and not runs_on(torch.zeros(1, device=DEVICE)):
        pytest.skip("needs Triton and a GPU, or TRITON_INTERPRET=1")
    return request.param


@pytest.fixture
def draw():
    generator = torch.Generator().manual_seed(0)

    def tensor(*shape, dtype=torch.float32):
        return torch.randn(*shape, generator=generator).to(dtype).to(DEVICE)

    return tensor


@pytest.fixture
def scattered():
    """Distinct places among ``total``, in no order."""
    generator = torch.Generator().manual_seed(1)
    return lambda n, total: torch.randperm(total, generator=generator)[:n].to(DEVICE)
