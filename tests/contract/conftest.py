from __future__ import annotations

import pytest
import torch


@pytest.fixture(autouse=True)
def _links_beside_llama(model_of, tmp_path, monkeypatch):
    """Strategies that want trained link tokens find some, random ones, beside the model they are tried on."""
    from nbkv.models.link_tokens import NAME, Links, write_links

    llama = model_of("llama")
    noise = torch.randn(8, 5, llama.config.hidden_size, generator=torch.Generator().manual_seed(0))
    write_links(tmp_path / NAME, Links(noise))
    monkeypatch.setattr(llama, "name_or_path", str(tmp_path))
