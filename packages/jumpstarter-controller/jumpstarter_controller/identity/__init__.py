"""Keys, certificates, tokens, and who may do what."""
