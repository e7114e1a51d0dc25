"""Runs on several processes or machines: a dask.distributed cluster, made here or already there."""
