"""Attention that is kept from one denoising pass over a block to the next."""
