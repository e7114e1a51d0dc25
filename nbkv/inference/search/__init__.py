"""The loop of a tree search: branches, their steps, and the request that they are all answers to."""
