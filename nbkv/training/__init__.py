"""How the bundled readers were made."""
