from google.protobuf import duration_pb2 as _duration_pb2
from google.protobuf import empty_pb2 as _empty_pb2
from google.protobuf import field_mask_pb2 as _field_mask_pb2
from google.protobuf import timestamp_pb2 as _timestamp_pb2
from ....jumpstarter.lab.v1 import lab_pb2 as _lab_pb2
from ....jumpstarter.v1 import kubernetes_pb2 as _kubernetes_pb2
from google.protobuf.internal import containers as _containers
from google.protobuf.internal import enum_type_wrapper as _enum_type_wrapper
from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from collections.abc import Iterable as _Iterable, Mapping as _Mapping
from typing import ClassVar as _ClassVar, Optional as _Optional, Union as _Union

DESCRIPTOR: _descriptor.FileDescriptor

class Kind(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    KIND_UNSPECIFIED: _ClassVar[Kind]
    KIND_CLIENT: _ClassVar[Kind]
    KIND_EXPORTER: _ClassVar[Kind]
    KIND_ADMIN: _ClassVar[Kind]
    KIND_ROUTER: _ClassVar[Kind]
KIND_UNSPECIFIED: Kind
KIND_CLIENT: Kind
KIND_EXPORTER: Kind
KIND_ADMIN: Kind
KIND_ROUTER: Kind

class Server(_message.Message):
    __slots__ = ("version", "namespace", "admin", "endpoint", "ca")
    VERSION_FIELD_NUMBER: _ClassVar[int]
    NAMESPACE_FIELD_NUMBER: _ClassVar[int]
    ADMIN_FIELD_NUMBER: _ClassVar[int]
    ENDPOINT_FIELD_NUMBER: _ClassVar[int]
    CA_FIELD_NUMBER: _ClassVar[int]
    version: str
    namespace: str
    admin: str
    endpoint: str
    ca: str
    def __init__(self, version: _Optional[str] = ..., namespace: _Optional[str] = ..., admin: _Optional[str] = ..., endpoint: _Optional[str] = ..., ca: _Optional[str] = ...) -> None: ...

class Account(_message.Message):
    __slots__ = ("kind", "name", "uid", "labels", "username", "enabled", "created", "token_expires", "version", "exporter")
    class LabelsEntry(_message.Message):
        __slots__ = ("key", "value")
        KEY_FIELD_NUMBER: _ClassVar[int]
        VALUE_FIELD_NUMBER: _ClassVar[int]
        key: str
        value: str
        def __init__(self, key: _Optional[str] = ..., value: _Optional[str] = ...) -> None: ...
    KIND_FIELD_NUMBER: _ClassVar[int]
    NAME_FIELD_NUMBER: _ClassVar[int]
    UID_FIELD_NUMBER: _ClassVar[int]
    LABELS_FIELD_NUMBER: _ClassVar[int]
    USERNAME_FIELD_NUMBER: _ClassVar[int]
    ENABLED_FIELD_NUMBER: _ClassVar[int]
    CREATED_FIELD_NUMBER: _ClassVar[int]
    TOKEN_EXPIRES_FIELD_NUMBER: _ClassVar[int]
    VERSION_FIELD_NUMBER: _ClassVar[int]
    EXPORTER_FIELD_NUMBER: _ClassVar[int]
    kind: Kind
    name: str
    uid: str
    labels: _containers.ScalarMap[str, str]
    username: str
    enabled: bool
    created: _timestamp_pb2.Timestamp
    token_expires: _timestamp_pb2.Timestamp
    version: str
    exporter: ExporterPart
    def __init__(self, kind: _Optional[_Union[Kind, str]] = ..., name: _Optional[str] = ..., uid: _Optional[str] = ..., labels: _Optional[_Mapping[str, str]] = ..., username: _Optional[str] = ..., enabled: bool = ..., created: _Optional[_Union[_timestamp_pb2.Timestamp, _Mapping]] = ..., token_expires: _Optional[_Union[_timestamp_pb2.Timestamp, _Mapping]] = ..., version: _Optional[str] = ..., exporter: _Optional[_Union[ExporterPart, _Mapping]] = ...) -> None: ...

class ExporterPart(_message.Message):
    __slots__ = ("state", "online", "registered", "devices", "device")
    STATE_FIELD_NUMBER: _ClassVar[int]
    ONLINE_FIELD_NUMBER: _ClassVar[int]
    REGISTERED_FIELD_NUMBER: _ClassVar[int]
    DEVICES_FIELD_NUMBER: _ClassVar[int]
    DEVICE_FIELD_NUMBER: _ClassVar[int]
    state: _lab_pb2.ExporterState
    online: bool
    registered: bool
    devices: int
    device: _containers.RepeatedCompositeFieldContainer[Device]
    def __init__(self, state: _Optional[_Union[_lab_pb2.ExporterState, _Mapping]] = ..., online: bool = ..., registered: bool = ..., devices: _Optional[int] = ..., device: _Optional[_Iterable[_Union[Device, _Mapping]]] = ...) -> None: ...

class Device(_message.Message):
    __slots__ = ("uuid", "parent_uuid", "labels")
    class LabelsEntry(_message.Message):
        __slots__ = ("key", "value")
        KEY_FIELD_NUMBER: _ClassVar[int]
        VALUE_FIELD_NUMBER: _ClassVar[int]
        key: str
        value: str
        def __init__(self, key: _Optional[str] = ..., value: _Optional[str] = ...) -> None: ...
    UUID_FIELD_NUMBER: _ClassVar[int]
    PARENT_UUID_FIELD_NUMBER: _ClassVar[int]
    LABELS_FIELD_NUMBER: _ClassVar[int]
    uuid: str
    parent_uuid: str
    labels: _containers.ScalarMap[str, str]
    def __init__(self, uuid: _Optional[str] = ..., parent_uuid: _Optional[str] = ..., labels: _Optional[_Mapping[str, str]] = ...) -> None: ...

class AccountCredentials(_message.Message):
    __slots__ = ("account", "endpoint", "ca", "token", "expires")
    ACCOUNT_FIELD_NUMBER: _ClassVar[int]
    ENDPOINT_FIELD_NUMBER: _ClassVar[int]
    CA_FIELD_NUMBER: _ClassVar[int]
    TOKEN_FIELD_NUMBER: _ClassVar[int]
    EXPIRES_FIELD_NUMBER: _ClassVar[int]
    account: Account
    endpoint: str
    ca: str
    token: str
    expires: _timestamp_pb2.Timestamp
    def __init__(self, account: _Optional[_Union[Account, _Mapping]] = ..., endpoint: _Optional[str] = ..., ca: _Optional[str] = ..., token: _Optional[str] = ..., expires: _Optional[_Union[_timestamp_pb2.Timestamp, _Mapping]] = ...) -> None: ...

class NameRequest(_message.Message):
    __slots__ = ("name",)
    NAME_FIELD_NUMBER: _ClassVar[int]
    name: str
    def __init__(self, name: _Optional[str] = ...) -> None: ...

class CreateAccountRequest(_message.Message):
    __slots__ = ("kind", "parent", "id", "labels", "username", "token_life")
    class LabelsEntry(_message.Message):
        __slots__ = ("key", "value")
        KEY_FIELD_NUMBER: _ClassVar[int]
        VALUE_FIELD_NUMBER: _ClassVar[int]
        key: str
        value: str
        def __init__(self, key: _Optional[str] = ..., value: _Optional[str] = ...) -> None: ...
    KIND_FIELD_NUMBER: _ClassVar[int]
    PARENT_FIELD_NUMBER: _ClassVar[int]
    ID_FIELD_NUMBER: _ClassVar[int]
    LABELS_FIELD_NUMBER: _ClassVar[int]
    USERNAME_FIELD_NUMBER: _ClassVar[int]
    TOKEN_LIFE_FIELD_NUMBER: _ClassVar[int]
    kind: Kind
    parent: str
    id: str
    labels: _containers.ScalarMap[str, str]
    username: str
    token_life: _duration_pb2.Duration
    def __init__(self, kind: _Optional[_Union[Kind, str]] = ..., parent: _Optional[str] = ..., id: _Optional[str] = ..., labels: _Optional[_Mapping[str, str]] = ..., username: _Optional[str] = ..., token_life: _Optional[_Union[_duration_pb2.Duration, _Mapping]] = ...) -> None: ...

class ListAccountsRequest(_message.Message):
    __slots__ = ("kind", "parent", "filter", "page_size", "page_token", "with_devices")
    KIND_FIELD_NUMBER: _ClassVar[int]
    PARENT_FIELD_NUMBER: _ClassVar[int]
    FILTER_FIELD_NUMBER: _ClassVar[int]
    PAGE_SIZE_FIELD_NUMBER: _ClassVar[int]
    PAGE_TOKEN_FIELD_NUMBER: _ClassVar[int]
    WITH_DEVICES_FIELD_NUMBER: _ClassVar[int]
    kind: Kind
    parent: str
    filter: str
    page_size: int
    page_token: str
    with_devices: bool
    def __init__(self, kind: _Optional[_Union[Kind, str]] = ..., parent: _Optional[str] = ..., filter: _Optional[str] = ..., page_size: _Optional[int] = ..., page_token: _Optional[str] = ..., with_devices: bool = ...) -> None: ...

class ListAccountsResponse(_message.Message):
    __slots__ = ("accounts", "next_page_token")
    ACCOUNTS_FIELD_NUMBER: _ClassVar[int]
    NEXT_PAGE_TOKEN_FIELD_NUMBER: _ClassVar[int]
    accounts: _containers.RepeatedCompositeFieldContainer[Account]
    next_page_token: str
    def __init__(self, accounts: _Optional[_Iterable[_Union[Account, _Mapping]]] = ..., next_page_token: _Optional[str] = ...) -> None: ...

class UpdateAccountRequest(_message.Message):
    __slots__ = ("account", "update_mask")
    ACCOUNT_FIELD_NUMBER: _ClassVar[int]
    UPDATE_MASK_FIELD_NUMBER: _ClassVar[int]
    account: Account
    update_mask: _field_mask_pb2.FieldMask
    def __init__(self, account: _Optional[_Union[Account, _Mapping]] = ..., update_mask: _Optional[_Union[_field_mask_pb2.FieldMask, _Mapping]] = ...) -> None: ...

class RotateAccountRequest(_message.Message):
    __slots__ = ("name", "token_life", "revoke_now")
    NAME_FIELD_NUMBER: _ClassVar[int]
    TOKEN_LIFE_FIELD_NUMBER: _ClassVar[int]
    REVOKE_NOW_FIELD_NUMBER: _ClassVar[int]
    name: str
    token_life: _duration_pb2.Duration
    revoke_now: bool
    def __init__(self, name: _Optional[str] = ..., token_life: _Optional[_Union[_duration_pb2.Duration, _Mapping]] = ..., revoke_now: bool = ...) -> None: ...

class Policy(_message.Message):
    __slots__ = ("name", "uid", "version", "created", "exporter_selector", "rules")
    NAME_FIELD_NUMBER: _ClassVar[int]
    UID_FIELD_NUMBER: _ClassVar[int]
    VERSION_FIELD_NUMBER: _ClassVar[int]
    CREATED_FIELD_NUMBER: _ClassVar[int]
    EXPORTER_SELECTOR_FIELD_NUMBER: _ClassVar[int]
    RULES_FIELD_NUMBER: _ClassVar[int]
    name: str
    uid: str
    version: str
    created: _timestamp_pb2.Timestamp
    exporter_selector: _kubernetes_pb2.LabelSelector
    rules: _containers.RepeatedCompositeFieldContainer[Rule]
    def __init__(self, name: _Optional[str] = ..., uid: _Optional[str] = ..., version: _Optional[str] = ..., created: _Optional[_Union[_timestamp_pb2.Timestamp, _Mapping]] = ..., exporter_selector: _Optional[_Union[_kubernetes_pb2.LabelSelector, _Mapping]] = ..., rules: _Optional[_Iterable[_Union[Rule, _Mapping]]] = ...) -> None: ...

class Rule(_message.Message):
    __slots__ = ("description", "priority", "clients", "maximum_duration", "spot_access", "maximum_leases", "idle_timeout", "extend_by_use", "maximum_use")
    DESCRIPTION_FIELD_NUMBER: _ClassVar[int]
    PRIORITY_FIELD_NUMBER: _ClassVar[int]
    CLIENTS_FIELD_NUMBER: _ClassVar[int]
    MAXIMUM_DURATION_FIELD_NUMBER: _ClassVar[int]
    SPOT_ACCESS_FIELD_NUMBER: _ClassVar[int]
    MAXIMUM_LEASES_FIELD_NUMBER: _ClassVar[int]
    IDLE_TIMEOUT_FIELD_NUMBER: _ClassVar[int]
    EXTEND_BY_USE_FIELD_NUMBER: _ClassVar[int]
    MAXIMUM_USE_FIELD_NUMBER: _ClassVar[int]
    description: str
    priority: int
    clients: _containers.RepeatedCompositeFieldContainer[_kubernetes_pb2.LabelSelector]
    maximum_duration: _duration_pb2.Duration
    spot_access: bool
    maximum_leases: int
    idle_timeout: _duration_pb2.Duration
    extend_by_use: _duration_pb2.Duration
    maximum_use: _duration_pb2.Duration
    def __init__(self, description: _Optional[str] = ..., priority: _Optional[int] = ..., clients: _Optional[_Iterable[_Union[_kubernetes_pb2.LabelSelector, _Mapping]]] = ..., maximum_duration: _Optional[_Union[_duration_pb2.Duration, _Mapping]] = ..., spot_access: bool = ..., maximum_leases: _Optional[int] = ..., idle_timeout: _Optional[_Union[_duration_pb2.Duration, _Mapping]] = ..., extend_by_use: _Optional[_Union[_duration_pb2.Duration, _Mapping]] = ..., maximum_use: _Optional[_Union[_duration_pb2.Duration, _Mapping]] = ...) -> None: ...

class PutPolicyRequest(_message.Message):
    __slots__ = ("policy",)
    POLICY_FIELD_NUMBER: _ClassVar[int]
    policy: Policy
    def __init__(self, policy: _Optional[_Union[Policy, _Mapping]] = ...) -> None: ...

class ListRequest(_message.Message):
    __slots__ = ("parent", "page_size", "page_token")
    PARENT_FIELD_NUMBER: _ClassVar[int]
    PAGE_SIZE_FIELD_NUMBER: _ClassVar[int]
    PAGE_TOKEN_FIELD_NUMBER: _ClassVar[int]
    parent: str
    page_size: int
    page_token: str
    def __init__(self, parent: _Optional[str] = ..., page_size: _Optional[int] = ..., page_token: _Optional[str] = ...) -> None: ...

class ListPoliciesResponse(_message.Message):
    __slots__ = ("policies", "next_page_token")
    POLICIES_FIELD_NUMBER: _ClassVar[int]
    NEXT_PAGE_TOKEN_FIELD_NUMBER: _ClassVar[int]
    policies: _containers.RepeatedCompositeFieldContainer[Policy]
    next_page_token: str
    def __init__(self, policies: _Optional[_Iterable[_Union[Policy, _Mapping]]] = ..., next_page_token: _Optional[str] = ...) -> None: ...

class ListLeasesRequest(_message.Message):
    __slots__ = ("parent", "only_active", "client", "exporter", "page_size", "page_token", "lease")
    PARENT_FIELD_NUMBER: _ClassVar[int]
    ONLY_ACTIVE_FIELD_NUMBER: _ClassVar[int]
    CLIENT_FIELD_NUMBER: _ClassVar[int]
    EXPORTER_FIELD_NUMBER: _ClassVar[int]
    PAGE_SIZE_FIELD_NUMBER: _ClassVar[int]
    PAGE_TOKEN_FIELD_NUMBER: _ClassVar[int]
    LEASE_FIELD_NUMBER: _ClassVar[int]
    parent: str
    only_active: bool
    client: str
    exporter: str
    page_size: int
    page_token: str
    lease: str
    def __init__(self, parent: _Optional[str] = ..., only_active: bool = ..., client: _Optional[str] = ..., exporter: _Optional[str] = ..., page_size: _Optional[int] = ..., page_token: _Optional[str] = ..., lease: _Optional[str] = ...) -> None: ...

class ListLeasesResponse(_message.Message):
    __slots__ = ("leases", "next_page_token")
    LEASES_FIELD_NUMBER: _ClassVar[int]
    NEXT_PAGE_TOKEN_FIELD_NUMBER: _ClassVar[int]
    leases: _containers.RepeatedCompositeFieldContainer[_lab_pb2.LeaseState]
    next_page_token: str
    def __init__(self, leases: _Optional[_Iterable[_Union[_lab_pb2.LeaseState, _Mapping]]] = ..., next_page_token: _Optional[str] = ...) -> None: ...

class EndLeaseRequest(_message.Message):
    __slots__ = ("name", "reason")
    NAME_FIELD_NUMBER: _ClassVar[int]
    REASON_FIELD_NUMBER: _ClassVar[int]
    name: str
    reason: str
    def __init__(self, name: _Optional[str] = ..., reason: _Optional[str] = ...) -> None: ...

class ListAuditRequest(_message.Message):
    __slots__ = ("parent", "since", "until", "client", "exporter", "lease", "action", "page_size", "page_token", "newest_first")
    PARENT_FIELD_NUMBER: _ClassVar[int]
    SINCE_FIELD_NUMBER: _ClassVar[int]
    UNTIL_FIELD_NUMBER: _ClassVar[int]
    CLIENT_FIELD_NUMBER: _ClassVar[int]
    EXPORTER_FIELD_NUMBER: _ClassVar[int]
    LEASE_FIELD_NUMBER: _ClassVar[int]
    ACTION_FIELD_NUMBER: _ClassVar[int]
    PAGE_SIZE_FIELD_NUMBER: _ClassVar[int]
    PAGE_TOKEN_FIELD_NUMBER: _ClassVar[int]
    NEWEST_FIRST_FIELD_NUMBER: _ClassVar[int]
    parent: str
    since: _timestamp_pb2.Timestamp
    until: _timestamp_pb2.Timestamp
    client: str
    exporter: str
    lease: str
    action: str
    page_size: int
    page_token: str
    newest_first: bool
    def __init__(self, parent: _Optional[str] = ..., since: _Optional[_Union[_timestamp_pb2.Timestamp, _Mapping]] = ..., until: _Optional[_Union[_timestamp_pb2.Timestamp, _Mapping]] = ..., client: _Optional[str] = ..., exporter: _Optional[str] = ..., lease: _Optional[str] = ..., action: _Optional[str] = ..., page_size: _Optional[int] = ..., page_token: _Optional[str] = ..., newest_first: bool = ...) -> None: ...

class AuditEntry(_message.Message):
    __slots__ = ("id", "time", "namespace", "actor_kind", "actor", "peer", "action", "client", "exporter", "lease", "details")
    class DetailsEntry(_message.Message):
        __slots__ = ("key", "value")
        KEY_FIELD_NUMBER: _ClassVar[int]
        VALUE_FIELD_NUMBER: _ClassVar[int]
        key: str
        value: str
        def __init__(self, key: _Optional[str] = ..., value: _Optional[str] = ...) -> None: ...
    ID_FIELD_NUMBER: _ClassVar[int]
    TIME_FIELD_NUMBER: _ClassVar[int]
    NAMESPACE_FIELD_NUMBER: _ClassVar[int]
    ACTOR_KIND_FIELD_NUMBER: _ClassVar[int]
    ACTOR_FIELD_NUMBER: _ClassVar[int]
    PEER_FIELD_NUMBER: _ClassVar[int]
    ACTION_FIELD_NUMBER: _ClassVar[int]
    CLIENT_FIELD_NUMBER: _ClassVar[int]
    EXPORTER_FIELD_NUMBER: _ClassVar[int]
    LEASE_FIELD_NUMBER: _ClassVar[int]
    DETAILS_FIELD_NUMBER: _ClassVar[int]
    id: int
    time: _timestamp_pb2.Timestamp
    namespace: str
    actor_kind: str
    actor: str
    peer: str
    action: str
    client: str
    exporter: str
    lease: str
    details: _containers.ScalarMap[str, str]
    def __init__(self, id: _Optional[int] = ..., time: _Optional[_Union[_timestamp_pb2.Timestamp, _Mapping]] = ..., namespace: _Optional[str] = ..., actor_kind: _Optional[str] = ..., actor: _Optional[str] = ..., peer: _Optional[str] = ..., action: _Optional[str] = ..., client: _Optional[str] = ..., exporter: _Optional[str] = ..., lease: _Optional[str] = ..., details: _Optional[_Mapping[str, str]] = ...) -> None: ...

class ListAuditResponse(_message.Message):
    __slots__ = ("entries", "next_page_token")
    ENTRIES_FIELD_NUMBER: _ClassVar[int]
    NEXT_PAGE_TOKEN_FIELD_NUMBER: _ClassVar[int]
    entries: _containers.RepeatedCompositeFieldContainer[AuditEntry]
    next_page_token: str
    def __init__(self, entries: _Optional[_Iterable[_Union[AuditEntry, _Mapping]]] = ..., next_page_token: _Optional[str] = ...) -> None: ...

class Router(_message.Message):
    __slots__ = ("name", "endpoint", "labels", "online", "streams", "bytes_per_second", "last_seen", "draining")
    class LabelsEntry(_message.Message):
        __slots__ = ("key", "value")
        KEY_FIELD_NUMBER: _ClassVar[int]
        VALUE_FIELD_NUMBER: _ClassVar[int]
        key: str
        value: str
        def __init__(self, key: _Optional[str] = ..., value: _Optional[str] = ...) -> None: ...
    NAME_FIELD_NUMBER: _ClassVar[int]
    ENDPOINT_FIELD_NUMBER: _ClassVar[int]
    LABELS_FIELD_NUMBER: _ClassVar[int]
    ONLINE_FIELD_NUMBER: _ClassVar[int]
    STREAMS_FIELD_NUMBER: _ClassVar[int]
    BYTES_PER_SECOND_FIELD_NUMBER: _ClassVar[int]
    LAST_SEEN_FIELD_NUMBER: _ClassVar[int]
    DRAINING_FIELD_NUMBER: _ClassVar[int]
    name: str
    endpoint: str
    labels: _containers.ScalarMap[str, str]
    online: bool
    streams: int
    bytes_per_second: int
    last_seen: _timestamp_pb2.Timestamp
    draining: bool
    def __init__(self, name: _Optional[str] = ..., endpoint: _Optional[str] = ..., labels: _Optional[_Mapping[str, str]] = ..., online: bool = ..., streams: _Optional[int] = ..., bytes_per_second: _Optional[int] = ..., last_seen: _Optional[_Union[_timestamp_pb2.Timestamp, _Mapping]] = ..., draining: bool = ...) -> None: ...

class ListRoutersResponse(_message.Message):
    __slots__ = ("routers",)
    ROUTERS_FIELD_NUMBER: _ClassVar[int]
    routers: _containers.RepeatedCompositeFieldContainer[Router]
    def __init__(self, routers: _Optional[_Iterable[_Union[Router, _Mapping]]] = ...) -> None: ...
