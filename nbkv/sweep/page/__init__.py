"""The page of a folder of runs and the files beside it."""
