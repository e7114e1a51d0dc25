"""Stores: KV kept between requests, found by token ids."""
