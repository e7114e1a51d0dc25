"""What makes the tables of docs/: each study is a command, its figures are committed as JSON."""
