"""Writes down what a client says on the wire to our exporter: each call and stream, with its kind and arguments."""

from __future__ import annotations

import json
import re
from dataclasses import dataclass, field
from typing import Any
from uuid import UUID

from google.protobuf import json_format
from jumpstarter.exporter import Session

_UUID = re.compile(r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}")


@dataclass(kw_only=True)
class RecordingSession(Session):
    """A session that serves as it always does, and takes notes.

    A note is such as `call power.on()`, `streamingcall power.read()` or `stream console.connect`; arguments are JSON, a
    resource is `<resource>` and a UUID `<uuid>`.
    """

    notes: list[str] = field(init=False, default_factory=list)

    def __post_init__(self) -> None:
        super().__post_init__()
        names: dict[UUID, str] = {}
        for uuid, parent, name, _ in self.root_device.enumerate():
            above = names.get(parent.uuid, "") if parent is not None else ""
            # A driver that others stand for by `ref` has the name of its own place.
            names.setdefault(uuid, f"{above}{name}." if name else "")
        self._names = {str(uuid): name for uuid, name in names.items()}

    async def DriverCall(self, request: Any, context: Any) -> Any:
        """Note a call, and serve it."""
        self._note("call", request)
        return await super().DriverCall(request, context)

    async def StreamingDriverCall(self, request: Any, context: Any) -> None:
        """Note a streaming call, and serve it."""
        self._note("streamingcall", request)
        await super().StreamingDriverCall(request, context)

    async def serve_stream(self, metadata: dict[str, Any], context: Any, accept: Any) -> None:
        """Note a stream of a driver, and serve it; those of resources belong to the call that has their handle."""
        request = json.loads(metadata["request"])
        if request["kind"] == "driver":
            self.notes.append(f"stream {self._names[request['uuid']]}{request['method']}")
        await super().serve_stream(metadata, context, accept)

    def _note(self, kind: str, request: Any) -> None:
        args = ", ".join(json.dumps(_shown(json_format.MessageToDict(each)), sort_keys=True) for each in request.args)
        self.notes.append(f"{kind} {self._names[request.uuid]}{request.method}({args})")


def _shown(value: Any) -> Any:
    if isinstance(value, dict) and value.get("kind") in ("client_stream", "presigned_request"):
        return "<resource>"
    if isinstance(value, str) and _UUID.fullmatch(value):
        return "<uuid>"
    return value
