"""What strategies of one kind share; each narrows ``Strategy`` to one hook."""
