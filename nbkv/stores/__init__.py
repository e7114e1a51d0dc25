"""Where KV is kept between requests."""
