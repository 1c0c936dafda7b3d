"""How files change: one plan, staged, committed, and restored when something fails."""
