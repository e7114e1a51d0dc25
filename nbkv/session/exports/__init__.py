"""Cache files that prove themselves: KV with what they are of, and golden rows that whoever imports them runs again."""
