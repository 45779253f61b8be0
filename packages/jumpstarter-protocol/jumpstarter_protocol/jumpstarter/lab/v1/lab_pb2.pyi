from google.protobuf import duration_pb2 as _duration_pb2
from google.protobuf import timestamp_pb2 as _timestamp_pb2
from ....jumpstarter.client.v1 import client_pb2 as _client_pb2
from google.protobuf.internal import containers as _containers
from google.protobuf.internal import enum_type_wrapper as _enum_type_wrapper
from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from collections.abc import Iterable as _Iterable, Mapping as _Mapping
from typing import ClassVar as _ClassVar, Optional as _Optional, Union as _Union

DESCRIPTOR: _descriptor.FileDescriptor

class Role(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    ROLE_UNSPECIFIED: _ClassVar[Role]
    ROLE_OWNER: _ClassVar[Role]
    ROLE_DRIVER: _ClassVar[Role]
    ROLE_WATCHER: _ClassVar[Role]

class EventType(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    EVENT_TYPE_UNSPECIFIED: _ClassVar[EventType]
    EVENT_TYPE_PUT: _ClassVar[EventType]
    EVENT_TYPE_DELETED: _ClassVar[EventType]
    EVENT_TYPE_CURRENT: _ClassVar[EventType]
ROLE_UNSPECIFIED: Role
ROLE_OWNER: Role
ROLE_DRIVER: Role
ROLE_WATCHER: Role
EVENT_TYPE_UNSPECIFIED: EventType
EVENT_TYPE_PUT: EventType
EVENT_TYPE_DELETED: EventType
EVENT_TYPE_CURRENT: EventType

class WatchLeaseRequest(_message.Message):
    __slots__ = ("name",)
    NAME_FIELD_NUMBER: _ClassVar[int]
    name: str
    def __init__(self, name: _Optional[str] = ...) -> None: ...

class Holder(_message.Message):
    __slots__ = ("exporter", "client", "lease", "until")
    EXPORTER_FIELD_NUMBER: _ClassVar[int]
    CLIENT_FIELD_NUMBER: _ClassVar[int]
    LEASE_FIELD_NUMBER: _ClassVar[int]
    UNTIL_FIELD_NUMBER: _ClassVar[int]
    exporter: str
    client: str
    lease: str
    until: _timestamp_pb2.Timestamp
    def __init__(self, exporter: _Optional[str] = ..., client: _Optional[str] = ..., lease: _Optional[str] = ..., until: _Optional[_Union[_timestamp_pb2.Timestamp, _Mapping]] = ...) -> None: ...

class LeaseState(_message.Message):
    __slots__ = ("lease", "place", "waiting", "holders", "reason", "until", "limit", "idle_until", "shares", "role", "now", "policy", "priority", "ended")
    class SharesEntry(_message.Message):
        __slots__ = ("key", "value")
        KEY_FIELD_NUMBER: _ClassVar[int]
        VALUE_FIELD_NUMBER: _ClassVar[int]
        key: str
        value: Role
        def __init__(self, key: _Optional[str] = ..., value: _Optional[_Union[Role, str]] = ...) -> None: ...
    LEASE_FIELD_NUMBER: _ClassVar[int]
    PLACE_FIELD_NUMBER: _ClassVar[int]
    WAITING_FIELD_NUMBER: _ClassVar[int]
    HOLDERS_FIELD_NUMBER: _ClassVar[int]
    REASON_FIELD_NUMBER: _ClassVar[int]
    UNTIL_FIELD_NUMBER: _ClassVar[int]
    LIMIT_FIELD_NUMBER: _ClassVar[int]
    IDLE_UNTIL_FIELD_NUMBER: _ClassVar[int]
    SHARES_FIELD_NUMBER: _ClassVar[int]
    ROLE_FIELD_NUMBER: _ClassVar[int]
    NOW_FIELD_NUMBER: _ClassVar[int]
    POLICY_FIELD_NUMBER: _ClassVar[int]
    PRIORITY_FIELD_NUMBER: _ClassVar[int]
    ENDED_FIELD_NUMBER: _ClassVar[int]
    lease: _client_pb2.Lease
    place: int
    waiting: int
    holders: _containers.RepeatedCompositeFieldContainer[Holder]
    reason: str
    until: _timestamp_pb2.Timestamp
    limit: _timestamp_pb2.Timestamp
    idle_until: _timestamp_pb2.Timestamp
    shares: _containers.ScalarMap[str, Role]
    role: Role
    now: _timestamp_pb2.Timestamp
    policy: str
    priority: int
    ended: bool
    def __init__(self, lease: _Optional[_Union[_client_pb2.Lease, _Mapping]] = ..., place: _Optional[int] = ..., waiting: _Optional[int] = ..., holders: _Optional[_Iterable[_Union[Holder, _Mapping]]] = ..., reason: _Optional[str] = ..., until: _Optional[_Union[_timestamp_pb2.Timestamp, _Mapping]] = ..., limit: _Optional[_Union[_timestamp_pb2.Timestamp, _Mapping]] = ..., idle_until: _Optional[_Union[_timestamp_pb2.Timestamp, _Mapping]] = ..., shares: _Optional[_Mapping[str, Role]] = ..., role: _Optional[_Union[Role, str]] = ..., now: _Optional[_Union[_timestamp_pb2.Timestamp, _Mapping]] = ..., policy: _Optional[str] = ..., priority: _Optional[int] = ..., ended: bool = ...) -> None: ...

class WatchLeasesRequest(_message.Message):
    __slots__ = ("parent", "filter", "tag_filter", "only_active", "client")
    PARENT_FIELD_NUMBER: _ClassVar[int]
    FILTER_FIELD_NUMBER: _ClassVar[int]
    TAG_FILTER_FIELD_NUMBER: _ClassVar[int]
    ONLY_ACTIVE_FIELD_NUMBER: _ClassVar[int]
    CLIENT_FIELD_NUMBER: _ClassVar[int]
    parent: str
    filter: str
    tag_filter: str
    only_active: bool
    client: str
    def __init__(self, parent: _Optional[str] = ..., filter: _Optional[str] = ..., tag_filter: _Optional[str] = ..., only_active: bool = ..., client: _Optional[str] = ...) -> None: ...

class LeaseEvent(_message.Message):
    __slots__ = ("type", "state")
    TYPE_FIELD_NUMBER: _ClassVar[int]
    STATE_FIELD_NUMBER: _ClassVar[int]
    type: EventType
    state: LeaseState
    def __init__(self, type: _Optional[_Union[EventType, str]] = ..., state: _Optional[_Union[LeaseState, _Mapping]] = ...) -> None: ...

class ListLeaseStatesResponse(_message.Message):
    __slots__ = ("states",)
    STATES_FIELD_NUMBER: _ClassVar[int]
    states: _containers.RepeatedCompositeFieldContainer[LeaseState]
    def __init__(self, states: _Optional[_Iterable[_Union[LeaseState, _Mapping]]] = ...) -> None: ...

class WatchExportersRequest(_message.Message):
    __slots__ = ("parent", "filter", "show_hidden_labels")
    PARENT_FIELD_NUMBER: _ClassVar[int]
    FILTER_FIELD_NUMBER: _ClassVar[int]
    SHOW_HIDDEN_LABELS_FIELD_NUMBER: _ClassVar[int]
    parent: str
    filter: str
    show_hidden_labels: bool
    def __init__(self, parent: _Optional[str] = ..., filter: _Optional[str] = ..., show_hidden_labels: bool = ...) -> None: ...

class ExporterState(_message.Message):
    __slots__ = ("exporter", "lease", "client", "since", "until", "waiting", "last_seen", "draining", "now", "devices")
    EXPORTER_FIELD_NUMBER: _ClassVar[int]
    LEASE_FIELD_NUMBER: _ClassVar[int]
    CLIENT_FIELD_NUMBER: _ClassVar[int]
    SINCE_FIELD_NUMBER: _ClassVar[int]
    UNTIL_FIELD_NUMBER: _ClassVar[int]
    WAITING_FIELD_NUMBER: _ClassVar[int]
    LAST_SEEN_FIELD_NUMBER: _ClassVar[int]
    DRAINING_FIELD_NUMBER: _ClassVar[int]
    NOW_FIELD_NUMBER: _ClassVar[int]
    DEVICES_FIELD_NUMBER: _ClassVar[int]
    exporter: _client_pb2.Exporter
    lease: str
    client: str
    since: _timestamp_pb2.Timestamp
    until: _timestamp_pb2.Timestamp
    waiting: int
    last_seen: _timestamp_pb2.Timestamp
    draining: bool
    now: _timestamp_pb2.Timestamp
    devices: _containers.RepeatedScalarFieldContainer[str]
    def __init__(self, exporter: _Optional[_Union[_client_pb2.Exporter, _Mapping]] = ..., lease: _Optional[str] = ..., client: _Optional[str] = ..., since: _Optional[_Union[_timestamp_pb2.Timestamp, _Mapping]] = ..., until: _Optional[_Union[_timestamp_pb2.Timestamp, _Mapping]] = ..., waiting: _Optional[int] = ..., last_seen: _Optional[_Union[_timestamp_pb2.Timestamp, _Mapping]] = ..., draining: bool = ..., now: _Optional[_Union[_timestamp_pb2.Timestamp, _Mapping]] = ..., devices: _Optional[_Iterable[str]] = ...) -> None: ...

class ExporterEvent(_message.Message):
    __slots__ = ("type", "state")
    TYPE_FIELD_NUMBER: _ClassVar[int]
    STATE_FIELD_NUMBER: _ClassVar[int]
    type: EventType
    state: ExporterState
    def __init__(self, type: _Optional[_Union[EventType, str]] = ..., state: _Optional[_Union[ExporterState, _Mapping]] = ...) -> None: ...

class ListExporterStatesResponse(_message.Message):
    __slots__ = ("states",)
    STATES_FIELD_NUMBER: _ClassVar[int]
    states: _containers.RepeatedCompositeFieldContainer[ExporterState]
    def __init__(self, states: _Optional[_Iterable[_Union[ExporterState, _Mapping]]] = ...) -> None: ...

class ShareLeaseRequest(_message.Message):
    __slots__ = ("name", "client", "role")
    NAME_FIELD_NUMBER: _ClassVar[int]
    CLIENT_FIELD_NUMBER: _ClassVar[int]
    ROLE_FIELD_NUMBER: _ClassVar[int]
    name: str
    client: str
    role: Role
    def __init__(self, name: _Optional[str] = ..., client: _Optional[str] = ..., role: _Optional[_Union[Role, str]] = ...) -> None: ...

class Use(_message.Message):
    __slots__ = ("time", "client", "driver", "method", "kind", "outcome", "count")
    TIME_FIELD_NUMBER: _ClassVar[int]
    CLIENT_FIELD_NUMBER: _ClassVar[int]
    DRIVER_FIELD_NUMBER: _ClassVar[int]
    METHOD_FIELD_NUMBER: _ClassVar[int]
    KIND_FIELD_NUMBER: _ClassVar[int]
    OUTCOME_FIELD_NUMBER: _ClassVar[int]
    COUNT_FIELD_NUMBER: _ClassVar[int]
    time: _timestamp_pb2.Timestamp
    client: str
    driver: str
    method: str
    kind: str
    outcome: str
    count: int
    def __init__(self, time: _Optional[_Union[_timestamp_pb2.Timestamp, _Mapping]] = ..., client: _Optional[str] = ..., driver: _Optional[str] = ..., method: _Optional[str] = ..., kind: _Optional[str] = ..., outcome: _Optional[str] = ..., count: _Optional[int] = ...) -> None: ...

class ReportUseRequest(_message.Message):
    __slots__ = ("lease_name", "sequence", "uses", "in_use", "dropped")
    LEASE_NAME_FIELD_NUMBER: _ClassVar[int]
    SEQUENCE_FIELD_NUMBER: _ClassVar[int]
    USES_FIELD_NUMBER: _ClassVar[int]
    IN_USE_FIELD_NUMBER: _ClassVar[int]
    DROPPED_FIELD_NUMBER: _ClassVar[int]
    lease_name: str
    sequence: int
    uses: _containers.RepeatedCompositeFieldContainer[Use]
    in_use: bool
    dropped: int
    def __init__(self, lease_name: _Optional[str] = ..., sequence: _Optional[int] = ..., uses: _Optional[_Iterable[_Union[Use, _Mapping]]] = ..., in_use: bool = ..., dropped: _Optional[int] = ...) -> None: ...

class ReportUseResponse(_message.Message):
    __slots__ = ("interval",)
    INTERVAL_FIELD_NUMBER: _ClassVar[int]
    interval: _duration_pb2.Duration
    def __init__(self, interval: _Optional[_Union[_duration_pb2.Duration, _Mapping]] = ...) -> None: ...

class DrainRequest(_message.Message):
    __slots__ = ("draining", "reason")
    DRAINING_FIELD_NUMBER: _ClassVar[int]
    REASON_FIELD_NUMBER: _ClassVar[int]
    draining: bool
    reason: str
    def __init__(self, draining: bool = ..., reason: _Optional[str] = ...) -> None: ...

class DrainResponse(_message.Message):
    __slots__ = ()
    def __init__(self) -> None: ...

class RouterReport(_message.Message):
    __slots__ = ("endpoint", "labels", "streams", "waiting", "bytes_per_second", "bytes_total", "streams_total", "draining")
    class LabelsEntry(_message.Message):
        __slots__ = ("key", "value")
        KEY_FIELD_NUMBER: _ClassVar[int]
        VALUE_FIELD_NUMBER: _ClassVar[int]
        key: str
        value: str
        def __init__(self, key: _Optional[str] = ..., value: _Optional[str] = ...) -> None: ...
    ENDPOINT_FIELD_NUMBER: _ClassVar[int]
    LABELS_FIELD_NUMBER: _ClassVar[int]
    STREAMS_FIELD_NUMBER: _ClassVar[int]
    WAITING_FIELD_NUMBER: _ClassVar[int]
    BYTES_PER_SECOND_FIELD_NUMBER: _ClassVar[int]
    BYTES_TOTAL_FIELD_NUMBER: _ClassVar[int]
    STREAMS_TOTAL_FIELD_NUMBER: _ClassVar[int]
    DRAINING_FIELD_NUMBER: _ClassVar[int]
    endpoint: str
    labels: _containers.ScalarMap[str, str]
    streams: int
    waiting: int
    bytes_per_second: int
    bytes_total: int
    streams_total: int
    draining: bool
    def __init__(self, endpoint: _Optional[str] = ..., labels: _Optional[_Mapping[str, str]] = ..., streams: _Optional[int] = ..., waiting: _Optional[int] = ..., bytes_per_second: _Optional[int] = ..., bytes_total: _Optional[int] = ..., streams_total: _Optional[int] = ..., draining: bool = ...) -> None: ...

class RouterOrder(_message.Message):
    __slots__ = ("keys", "cut", "cut_leases")
    KEYS_FIELD_NUMBER: _ClassVar[int]
    CUT_FIELD_NUMBER: _ClassVar[int]
    CUT_LEASES_FIELD_NUMBER: _ClassVar[int]
    keys: _containers.RepeatedScalarFieldContainer[bytes]
    cut: _containers.RepeatedScalarFieldContainer[str]
    cut_leases: _containers.RepeatedCompositeFieldContainer[LeaseCut]
    def __init__(self, keys: _Optional[_Iterable[bytes]] = ..., cut: _Optional[_Iterable[str]] = ..., cut_leases: _Optional[_Iterable[_Union[LeaseCut, _Mapping]]] = ...) -> None: ...

class LeaseCut(_message.Message):
    __slots__ = ("lease", "client")
    LEASE_FIELD_NUMBER: _ClassVar[int]
    CLIENT_FIELD_NUMBER: _ClassVar[int]
    lease: str
    client: str
    def __init__(self, lease: _Optional[str] = ..., client: _Optional[str] = ...) -> None: ...

class CertifyRouterRequest(_message.Message):
    __slots__ = ("endpoint", "public_key")
    ENDPOINT_FIELD_NUMBER: _ClassVar[int]
    PUBLIC_KEY_FIELD_NUMBER: _ClassVar[int]
    endpoint: str
    public_key: bytes
    def __init__(self, endpoint: _Optional[str] = ..., public_key: _Optional[bytes] = ...) -> None: ...

class CertifyRouterResponse(_message.Message):
    __slots__ = ("chain", "expires")
    CHAIN_FIELD_NUMBER: _ClassVar[int]
    EXPIRES_FIELD_NUMBER: _ClassVar[int]
    chain: bytes
    expires: _timestamp_pb2.Timestamp
    def __init__(self, chain: _Optional[bytes] = ..., expires: _Optional[_Union[_timestamp_pb2.Timestamp, _Mapping]] = ...) -> None: ...
