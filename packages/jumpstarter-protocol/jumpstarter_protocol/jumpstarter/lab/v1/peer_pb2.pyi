from google.protobuf.internal import containers as _containers
from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from collections.abc import Iterable as _Iterable
from typing import ClassVar as _ClassVar, Optional as _Optional

DESCRIPTOR: _descriptor.FileDescriptor

class PeerDialRequest(_message.Message):
    __slots__ = ("namespace", "client", "lease", "patience_ms")
    NAMESPACE_FIELD_NUMBER: _ClassVar[int]
    CLIENT_FIELD_NUMBER: _ClassVar[int]
    LEASE_FIELD_NUMBER: _ClassVar[int]
    PATIENCE_MS_FIELD_NUMBER: _ClassVar[int]
    namespace: str
    client: str
    lease: str
    patience_ms: int
    def __init__(self, namespace: _Optional[str] = ..., client: _Optional[str] = ..., lease: _Optional[str] = ..., patience_ms: _Optional[int] = ...) -> None: ...

class PeerDialResponse(_message.Message):
    __slots__ = ("listening", "router_endpoint", "router_token")
    LISTENING_FIELD_NUMBER: _ClassVar[int]
    ROUTER_ENDPOINT_FIELD_NUMBER: _ClassVar[int]
    ROUTER_TOKEN_FIELD_NUMBER: _ClassVar[int]
    listening: bool
    router_endpoint: str
    router_token: str
    def __init__(self, listening: bool = ..., router_endpoint: _Optional[str] = ..., router_token: _Optional[str] = ...) -> None: ...

class PeerReportRequest(_message.Message):
    __slots__ = ("used", "waiting")
    USED_FIELD_NUMBER: _ClassVar[int]
    WAITING_FIELD_NUMBER: _ClassVar[int]
    used: _containers.RepeatedScalarFieldContainer[str]
    waiting: _containers.RepeatedScalarFieldContainer[str]
    def __init__(self, used: _Optional[_Iterable[str]] = ..., waiting: _Optional[_Iterable[str]] = ...) -> None: ...

class PeerReportResponse(_message.Message):
    __slots__ = ()
    def __init__(self) -> None: ...
