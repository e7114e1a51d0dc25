"""Where weights come from: what is bundled, folders, GGUF files, and pretrained models in Python packages."""
