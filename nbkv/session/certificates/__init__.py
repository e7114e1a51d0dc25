"""Certificates: which approximation keeps a bound on its error on a user's own prompts, with stated confidence."""

from __future__ import annotations

from nbkv.session.certificates.certificate import Certificate

__all__ = ["Certificate"]
