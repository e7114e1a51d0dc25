"""What a model can be trusted with, found by trying."""
