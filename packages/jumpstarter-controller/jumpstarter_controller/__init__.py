"""The server side: who may have which exporter, until when, and the byte streams between the two ends."""
