"""What RFCs and others define: parsed and rendered, pure."""
