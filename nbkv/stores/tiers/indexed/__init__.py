"""Tiers whose entries an index knows: by what they are found, what they take, and which goes first."""
