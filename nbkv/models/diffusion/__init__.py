"""Block-diffusion language models: how their checkpoints are told, and what their decoding is made of."""
