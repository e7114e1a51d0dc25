"""Block-diffusion language models: how their checkpoints are recognised, and what their decoding is made of."""
