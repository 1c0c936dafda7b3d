"""How far TLS parameters are raised, a module for each profile."""
