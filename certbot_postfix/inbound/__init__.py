"""Which certificate is served to whom: installed, renewed, forgotten."""
