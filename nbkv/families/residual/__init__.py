"""Older tokens are held in a form from which their K/V are restored."""
