"""Reuse of attention outputs between the denoising passes over a block."""
