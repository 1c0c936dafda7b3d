"""Certificates, and what a handshake shows."""
