"""The cloud-init seed of a machine: NoCloud files that a guest reads at its first start."""

from __future__ import annotations

from pathlib import Path

import yaml


def write_seed(directory: Path, *, instance_id: str, hostname: str, username: str, password: str) -> None:
    """Write `meta-data` and `user-data` for one user with a password and full rights (cloud-init: NoCloud)."""
    directory.mkdir(parents=True, exist_ok=True, mode=0o700)
    meta_data = {"instance-id": instance_id, "local-hostname": hostname}
    user_data = {
        "ssh_pwauth": True,
        "users": [
            {
                "name": username,
                "plain_text_passwd": password,
                "lock_passwd": False,
                "sudo": "ALL=(ALL) NOPASSWD:ALL",
            }
        ],
    }
    (directory / "meta-data").write_text(yaml.safe_dump(meta_data, sort_keys=False))
    (directory / "user-data").write_text("#cloud-config\n" + yaml.safe_dump(user_data, sort_keys=False))
