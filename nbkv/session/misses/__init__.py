"""Why did it miss? What this process has computed before, and what became of it, held against one prompt."""
