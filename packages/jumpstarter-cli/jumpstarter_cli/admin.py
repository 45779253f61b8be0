"""The place of `jmp admin`: the commands of the admin package, or a word on how to get them."""

from __future__ import annotations

from .extension import extension, missing

missing_admin = missing("admin", "jumpstarter-cli-admin", "Administer clients, exporters and leases.")

admin = extension("jumpstarter_cli_admin:admin", missing_admin)
