"""Files, programs, locks, signals and time."""
