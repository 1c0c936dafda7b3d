"""Certificates, host names, and what a handshake shows."""
