"""Files, programs, locks, signals and time; DNS, HTTPS, and the names of hosts."""
