"""Tasks read from files: question answering over real text, as its publishers give it out."""
