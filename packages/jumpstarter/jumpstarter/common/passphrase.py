"""The metadata key under which a client of a directly reached exporter sends its passphrase."""

PASSPHRASE_METADATA_KEY = "x-jumpstarter-passphrase"
