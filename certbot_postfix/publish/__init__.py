"""What DNS and the web must say of this server."""
