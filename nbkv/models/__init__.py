"""The one folder that knows transformers' internals."""
