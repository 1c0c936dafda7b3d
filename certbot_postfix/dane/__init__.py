"""May this key be served yet?  What DNS says of TLSA records, and what follows."""
