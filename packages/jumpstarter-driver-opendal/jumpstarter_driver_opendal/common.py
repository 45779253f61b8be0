"""Values that drivers and clients of storage share: metadata, capabilities, presigned requests, sizes."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from dataclasses import dataclass, fields
from datetime import datetime
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field

__all__ = ["Capability", "EntryMode", "HashAlgo", "Metadata", "Mode", "PathBuf", "PresignedRequest", "parse_size"]

PathBuf = str | os.PathLike[str]
Mode = Literal["rb", "wb"]
HashAlgo = Literal["md5", "sha256"]


class EntryMode(BaseModel):
    """Whether a path is that of a file or of a directory; neither when the storage can't tell."""

    model_config = ConfigDict(validate_by_name=True, validate_by_alias=True)

    entry_is_file: bool = Field(alias="is_file")
    entry_is_dir: bool = Field(alias="is_dir")

    def is_file(self) -> bool:
        """Whether it is a file."""
        return self.entry_is_file

    def is_dir(self) -> bool:
        """Whether it is a directory."""
        return self.entry_is_dir


class Metadata(BaseModel):
    """What is known of a path. Sizes are in bytes; a directory has none."""

    content_disposition: str | None = None
    content_length: int
    content_md5: str | None = None
    content_type: str | None = None
    etag: str | None = None
    last_modified: datetime | None = None
    mode: EntryMode


class PresignedRequest(BaseModel):
    """An HTTP request that anybody may make until it expires."""

    url: str
    method: str
    headers: dict[str, str]


@dataclass(frozen=True, kw_only=True)
class Capability:
    """What a storage can do, in the words of the opendal library; what a release of it doesn't know is False.

    No pydantic model, as those have methods called `copy` and `list` is a type in them.
    """

    stat: bool = False
    stat_with_if_match: bool = False
    stat_with_if_none_match: bool = False

    read: bool = False
    read_with_if_match: bool = False
    read_with_if_none_match: bool = False
    read_with_override_cache_control: bool = False
    read_with_override_content_disposition: bool = False
    read_with_override_content_type: bool = False

    write: bool = False
    write_can_multi: bool = False
    write_can_empty: bool = False
    write_can_append: bool = False
    write_with_content_type: bool = False
    write_with_content_disposition: bool = False
    write_with_cache_control: bool = False
    write_multi_max_size: int | None = None
    write_multi_min_size: int | None = None
    write_total_max_size: int | None = None

    create_dir: bool = False
    delete: bool = False
    copy: bool = False
    rename: bool = False

    list: bool = False
    list_with_limit: bool = False
    list_with_start_after: bool = False
    list_with_recursive: bool = False

    presign: bool = False
    presign_read: bool = False
    presign_stat: bool = False
    presign_write: bool = False

    shared: bool = False
    blocking: bool = False

    @classmethod
    def from_mapping(cls, values: Mapping[str, Any]) -> Capability:
        """Take what is known by name from `values`; sizes are whole numbers, which the wire has as floats."""
        known = {each.name for each in fields(cls)}
        taken: dict[str, Any] = {
            name: int(value) if isinstance(value, float) else value for name, value in values.items() if name in known
        }
        return cls(**taken)


_UNITS = {"": 1, "K": 1000, "M": 1000**2, "G": 1000**3, "T": 1000**4}
_BINARY_UNITS = {"K": 1 << 10, "M": 1 << 20, "G": 1 << 30, "T": 1 << 40}
_SIZE = re.compile(r"\s*(\d+)\s*([KMGT]?)(i?)B?\s*", re.IGNORECASE)


def parse_size(value: Any, what: str) -> int:
    """The number of bytes that a setting means: a number, or text such as `500MB` or `64 GiB`.

    Args:
        value: the setting.
        what: its name, for the message.

    Raises:
        ValueError: it is no size, or not above zero.
    """
    if isinstance(value, str) and (match := _SIZE.fullmatch(value)):
        digits, unit, binary = match[1], match[2].upper(), match[3]
        if unit or not binary:
            value = int(digits) * (_BINARY_UNITS if binary else _UNITS)[unit]
    if isinstance(value, bool) or not isinstance(value, int) or value <= 0:
        raise ValueError(f"{what} must be a number of bytes above 0 or a text such as '64GiB', got {value!r}")
    return value
