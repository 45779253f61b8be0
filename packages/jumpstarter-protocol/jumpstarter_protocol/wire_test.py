"""The protocol as it goes over the wire: field numbers, types, methods and bytes that existing peers rely on.

The tables are literal on purpose. A change that makes one of these tests fail breaks the interplay with other versions,
except for added fields, methods and messages, which get their own lines.
"""

from __future__ import annotations

from typing import Any

import pytest
from google.api import annotations_pb2, field_behavior_pb2, resource_pb2
from google.api import client_pb2 as api_client_pb2
from google.protobuf import duration_pb2, struct_pb2, timestamp_pb2
from google.protobuf.descriptor import Descriptor, FieldDescriptor, MethodDescriptor

from jumpstarter_protocol.jumpstarter.client.v1 import client_pb2, client_pb2_grpc
from jumpstarter_protocol.jumpstarter.v1 import (
    common_pb2,
    jumpstarter_pb2,
    jumpstarter_pb2_grpc,
    kubernetes_pb2,
    router_pb2,
    router_pb2_grpc,
)

JUMPSTARTER = """
RegisterRequest: 1 labels map<string,string>; 2 reports repeated DriverInstanceReport
DriverInstanceReport: 1 uuid string; 2 parent_uuid opt string; 3 labels map<string,string>; 4 description opt string; \
5 methods_description map<string,string>
RegisterResponse: 1 uuid string
UnregisterRequest: 2 reason string
UnregisterResponse:
ListenRequest: 1 lease_name string
ListenResponse: 1 router_endpoint string; 2 router_token string
StatusRequest:
StatusResponse: 1 leased bool; 2 lease_name opt string; 3 client_name opt string; 4 context map<string,string>
DialRequest: 1 lease_name string
DialResponse: 1 router_endpoint string; 2 router_token string
AuditStreamRequest: 1 exporter_uuid string; 2 driver_instance_uuid string; 3 severity string; 4 message string
ReportStatusRequest: 1 status ExporterStatus; 2 message opt string; 3 release_lease opt bool
ReportStatusResponse:
GetReportResponse: 1 uuid string; 2 labels map<string,string>; 3 reports repeated DriverInstanceReport; \
4 alternative_endpoints repeated Endpoint
Endpoint: 1 endpoint string; 2 certificate string; 3 client_certificate string; 4 client_private_key string
DriverCallRequest: 1 uuid string; 2 method string; 3 args repeated Value
DriverCallResponse: 1 uuid string; 2 result Value
StreamingDriverCallRequest: 1 uuid string; 2 method string; 3 args repeated Value
StreamingDriverCallResponse: 1 uuid string; 2 result Value
LogStreamResponse: 1 uuid string; 2 severity string; 3 message string; 4 source opt LogSource
ResetRequest:
ResetResponse:
GetStatusRequest:
GetStatusResponse: 1 status ExporterStatus; 2 message opt string; 3 status_version uint64; \
4 previous_status opt ExporterStatus
EndSessionRequest:
EndSessionResponse: 1 success bool; 2 message opt string
GetLeaseRequest: 1 name string
GetLeaseResponse: 1 duration Duration; 2 selector LabelSelector; 3 begin_time opt Timestamp; \
4 end_time opt Timestamp; 5 exporter_uuid opt string; 6 conditions repeated Condition
RequestLeaseRequest: 1 duration Duration; 2 selector LabelSelector
RequestLeaseResponse: 1 name string
ReleaseLeaseRequest: 1 name string
ReleaseLeaseResponse:
ListLeasesRequest:
ListLeasesResponse: 1 names repeated string
"""

ROUTER = """
StreamRequest: 1 payload bytes; 2 frame_type FrameType
StreamResponse: 1 payload bytes; 2 frame_type FrameType
"""

KUBERNETES = """
LabelSelectorRequirement: 1 key string; 2 operator string; 3 values repeated string
LabelSelector: 1 match_expressions repeated LabelSelectorRequirement; 2 match_labels map<string,string>
Time: 1 seconds opt int64; 2 nanos opt int32
Condition: 1 type opt string; 2 status opt string; 3 observedGeneration opt int64; 4 lastTransitionTime opt Time; \
5 reason opt string; 6 message opt string
"""

CLIENT = """
Exporter: 1 name string; 2 labels map<string,string>; 3 online bool; 4 status ExporterStatus; \
5 status_message string; 6 enabled opt bool; 7 deprecated_labels map<string,string>
Lease: 1 name string; 2 selector string; 3 duration Duration; 4 effective_duration Duration; \
5 begin_time opt Timestamp; 6 effective_begin_time opt Timestamp; 7 end_time opt Timestamp; \
8 effective_end_time opt Timestamp; 9 client opt string; 10 exporter opt string; 11 conditions repeated Condition; \
12 exporter_name opt string; 13 tags map<string,string>; 14 allow_disabled bool; \
15 context map<string,string>; 16 deprecated_labels map<string,string>
GetExporterRequest: 1 name string; 2 show_hidden_labels bool
ListExportersRequest: 1 parent string; 2 page_size int32; 3 page_token string; 4 filter string; \
5 show_hidden_labels bool
ListExportersResponse: 1 exporters repeated Exporter; 2 next_page_token string
GetLeaseRequest: 1 name string
ListLeasesRequest: 1 parent string; 2 page_size int32; 3 page_token string; 4 filter string; 5 only_active opt bool; \
6 tag_filter string
ListLeasesResponse: 1 leases repeated Lease; 2 next_page_token string
CreateLeaseRequest: 1 parent string; 2 lease_id string; 3 lease Lease
UpdateLeaseRequest: 1 lease Lease; 2 update_mask FieldMask
DeleteLeaseRequest: 1 name string
RotateTokenRequest: 1 parent string
RotateTokenResponse: 1 token string; 2 expiry Timestamp
"""

FILES = [
    ("jumpstarter/v1/jumpstarter.proto", "jumpstarter.v1", jumpstarter_pb2, JUMPSTARTER),
    ("jumpstarter/v1/router.proto", "jumpstarter.v1", router_pb2, ROUTER),
    ("jumpstarter/v1/kubernetes.proto", "jumpstarter.v1", kubernetes_pb2, KUBERNETES),
    ("jumpstarter/v1/common.proto", "jumpstarter.v1", common_pb2, ""),
    ("jumpstarter/client/v1/client.proto", "jumpstarter.client.v1", client_pb2, CLIENT),
]

SCALARS = {
    value: name.removeprefix("TYPE_").lower() for name, value in vars(FieldDescriptor).items() if name[:5] == "TYPE_"
}


def kind(field: FieldDescriptor) -> str:
    named = field.message_type or field.enum_type
    return named.name if named else SCALARS[field.type]


def shape(field: FieldDescriptor) -> str:
    if field.message_type and field.message_type.GetOptions().map_entry:
        entry = field.message_type.fields_by_name
        return f"{field.number} {field.name} map<{kind(entry['key'])},{kind(entry['value'])}>"
    prefix = "repeated " if field.is_repeated else "opt " if field.containing_oneof else ""
    return f"{field.number} {field.name} {prefix}{kind(field)}"


def layout(message: Descriptor) -> str:
    return f"{message.name}: {'; '.join(shape(field) for field in message.fields)}".strip()


@pytest.mark.parametrize(("path", "package", "module", "messages"), FILES, ids=[file[0] for file in FILES])
def test_messages_have_the_fields_that_peers_know(path: str, package: str, module: Any, messages: str) -> None:
    assert (module.DESCRIPTOR.name, module.DESCRIPTOR.package) == (path, package)
    actual = [layout(message) for message in module.DESCRIPTOR.message_types_by_name.values()]
    assert actual == messages.strip().splitlines()


def test_types_of_other_files_are_the_well_known_ones() -> None:
    used = {
        field.message_type.full_name
        for *_, module, _ in FILES
        for message in module.DESCRIPTOR.message_types_by_name.values()
        for field in message.fields
        if field.message_type and not field.message_type.full_name.startswith("jumpstarter.")
    }
    assert used == {f"google.protobuf.{name}" for name in ("Duration", "FieldMask", "Timestamp", "Value")}


ENUMS = {
    router_pb2.FrameType: {
        "FRAME_TYPE_DATA": 0,
        "FRAME_TYPE_RST_STREAM": 3,
        "FRAME_TYPE_PING": 6,
        "FRAME_TYPE_GOAWAY": 7,
    },
    common_pb2.ExporterStatus: {
        "EXPORTER_STATUS_UNSPECIFIED": 0,
        "EXPORTER_STATUS_OFFLINE": 1,
        "EXPORTER_STATUS_AVAILABLE": 2,
        "EXPORTER_STATUS_BEFORE_LEASE_HOOK": 3,
        "EXPORTER_STATUS_LEASE_READY": 4,
        "EXPORTER_STATUS_AFTER_LEASE_HOOK": 5,
        "EXPORTER_STATUS_BEFORE_LEASE_HOOK_FAILED": 6,
        "EXPORTER_STATUS_AFTER_LEASE_HOOK_FAILED": 7,
    },
    common_pb2.LogSource: {
        "LOG_SOURCE_UNSPECIFIED": 0,
        "LOG_SOURCE_DRIVER": 1,
        "LOG_SOURCE_BEFORE_LEASE_HOOK": 2,
        "LOG_SOURCE_AFTER_LEASE_HOOK": 3,
        "LOG_SOURCE_SYSTEM": 4,
    },
}


@pytest.mark.parametrize("enum", ENUMS, ids=lambda enum: enum.DESCRIPTOR.name)
def test_enums_have_the_values_that_peers_know(enum: Any) -> None:
    assert dict(enum.items()) == ENUMS[enum]


def test_there_are_no_other_enums() -> None:
    declared = [enum for *_, module, _ in FILES for enum in module.DESCRIPTOR.enum_types_by_name]
    assert sorted(declared) == sorted(enum.DESCRIPTOR.name for enum in ENUMS)


# Method, whether it streams the request and the response, and the names of both messages.
METHODS = """
/jumpstarter.v1.ControllerService/Register unary unary RegisterRequest RegisterResponse
/jumpstarter.v1.ControllerService/Unregister unary unary UnregisterRequest UnregisterResponse
/jumpstarter.v1.ControllerService/ReportStatus unary unary ReportStatusRequest ReportStatusResponse
/jumpstarter.v1.ControllerService/Listen unary stream ListenRequest ListenResponse
/jumpstarter.v1.ControllerService/Status unary stream StatusRequest StatusResponse
/jumpstarter.v1.ControllerService/Dial unary unary DialRequest DialResponse
/jumpstarter.v1.ControllerService/AuditStream stream unary AuditStreamRequest Empty
/jumpstarter.v1.ControllerService/GetLease unary unary GetLeaseRequest GetLeaseResponse
/jumpstarter.v1.ControllerService/RequestLease unary unary RequestLeaseRequest RequestLeaseResponse
/jumpstarter.v1.ControllerService/ReleaseLease unary unary ReleaseLeaseRequest ReleaseLeaseResponse
/jumpstarter.v1.ControllerService/ListLeases unary unary ListLeasesRequest ListLeasesResponse
/jumpstarter.v1.ExporterService/GetReport unary unary Empty GetReportResponse
/jumpstarter.v1.ExporterService/DriverCall unary unary DriverCallRequest DriverCallResponse
/jumpstarter.v1.ExporterService/StreamingDriverCall unary stream StreamingDriverCallRequest StreamingDriverCallResponse
/jumpstarter.v1.ExporterService/LogStream unary stream Empty LogStreamResponse
/jumpstarter.v1.ExporterService/Reset unary unary ResetRequest ResetResponse
/jumpstarter.v1.ExporterService/GetStatus unary unary GetStatusRequest GetStatusResponse
/jumpstarter.v1.ExporterService/EndSession unary unary EndSessionRequest EndSessionResponse
/jumpstarter.v1.RouterService/Stream stream stream StreamRequest StreamResponse
/jumpstarter.client.v1.ClientService/GetExporter unary unary GetExporterRequest Exporter
/jumpstarter.client.v1.ClientService/ListExporters unary unary ListExportersRequest ListExportersResponse
/jumpstarter.client.v1.ClientService/GetLease unary unary GetLeaseRequest Lease
/jumpstarter.client.v1.ClientService/ListLeases unary unary ListLeasesRequest ListLeasesResponse
/jumpstarter.client.v1.ClientService/CreateLease unary unary CreateLeaseRequest Lease
/jumpstarter.client.v1.ClientService/UpdateLease unary unary UpdateLeaseRequest Lease
/jumpstarter.client.v1.ClientService/DeleteLease unary unary DeleteLeaseRequest Empty
/jumpstarter.client.v1.ClientService/RotateToken unary unary RotateTokenRequest RotateTokenResponse
""".strip().splitlines()

SERVICES = [
    (jumpstarter_pb2, jumpstarter_pb2_grpc, "ControllerService"),
    (jumpstarter_pb2, jumpstarter_pb2_grpc, "ExporterService"),
    (router_pb2, router_pb2_grpc, "RouterService"),
    (client_pb2, client_pb2_grpc, "ClientService"),
]


def methods() -> list[MethodDescriptor]:
    return [method for pb2, _, name in SERVICES for method in pb2.DESCRIPTOR.services_by_name[name].methods]


def test_services_have_the_methods_that_peers_call() -> None:
    flows = {False: "unary", True: "stream"}
    assert [
        f"/{method.containing_service.full_name}/{method.name} "
        f"{flows[method.client_streaming]} {flows[method.server_streaming]} "
        f"{method.input_type.name} {method.output_type.name}"
        for method in methods()
    ] == METHODS


class Recorder:
    """Stands for a channel or a server, and records the methods that generated code gives it."""

    def __init__(self) -> None:
        self.seen: list[str] = []

    def __getattr__(self, flow: str) -> Any:
        request, _, response = flow.partition("_")

        def record(path: str, **details: Any) -> None:
            assert callable(details["request_serializer"])
            assert callable(details["response_deserializer"])
            self.seen.append(f"{path} {request} {response}")

        return record

    def add_generic_rpc_handlers(self, handlers: tuple[Any, ...]) -> None:
        for path, handler in handlers[0]._method_handlers.items():
            request = "stream" if handler.request_streaming else "unary"
            self.seen.append(f"{path} {request} {'stream' if handler.response_streaming else 'unary'}")

    def add_registered_method_handlers(self, service: str, handlers: dict[str, Any]) -> None:
        pass


@pytest.mark.parametrize("name", ["ControllerService", "ExporterService", "RouterService", "ClientService"])
def test_stubs_and_servicers_speak_of_the_same_methods(name: str) -> None:
    module = next(grpc for _, grpc, service in SERVICES if service == name)
    expected = [line.rsplit(" ", 2)[0] for line in METHODS if f".{name}/" in line]
    client, server = Recorder(), Recorder()
    getattr(module, f"{name}Stub")(client)
    getattr(module, f"add_{name}Servicer_to_server")(getattr(module, f"{name}Servicer")(), server)
    assert client.seen == server.seen == expected
    assert all(hasattr(getattr(module, name), line.split()[0].rpartition("/")[2]) for line in expected)


HTTP = {
    "GetExporter": ("get", "/v1/{name=namespaces/*/exporters/*}", "", "name"),
    "ListExporters": ("get", "/v1/{parent=namespaces/*}/exporters", "", "parent"),
    "GetLease": ("get", "/v1/{name=namespaces/*/leases/*}", "", "name"),
    "ListLeases": ("get", "/v1/{parent=namespaces/*}/leases", "", "parent"),
    "CreateLease": ("post", "/v1/{parent=namespaces/*}/leases", "lease", "parent,lease,lease_id"),
    "UpdateLease": ("patch", "/v1/{lease.name=namespaces/*/leases/*}", "lease", "lease,update_mask"),
    "DeleteLease": ("delete", "/v1/{name=namespaces/*/leases/*}", "", "name"),
    "RotateToken": ("post", "/v1/{parent=namespaces/*}/rotate-token", "*", "parent"),
}


def test_client_methods_have_their_http_annotations() -> None:
    actual = {}
    for method in client_pb2.DESCRIPTOR.services_by_name["ClientService"].methods:
        options = method.GetOptions()
        rule = options.Extensions[annotations_pb2.http]
        verb = rule.WhichOneof("pattern")
        signatures = options.Extensions[api_client_pb2.method_signature]
        actual[method.name] = (verb, getattr(rule, verb), rule.body, ";".join(signatures))
    assert actual == HTTP


def test_other_services_have_no_http_annotations() -> None:
    assert not any(
        method.GetOptions().HasExtension(annotations_pb2.http)
        for method in methods()
        if method.containing_service.name != "ClientService"
    )


BEHAVIOURS = """
Exporter.name IDENTIFIER
Exporter.online OUTPUT_ONLY
Exporter.status OUTPUT_ONLY
Exporter.status_message OUTPUT_ONLY
Exporter.enabled OUTPUT_ONLY
Exporter.deprecated_labels OUTPUT_ONLY
Lease.name IDENTIFIER
Lease.selector REQUIRED IMMUTABLE
Lease.duration OPTIONAL
Lease.effective_duration OUTPUT_ONLY
Lease.effective_begin_time OUTPUT_ONLY
Lease.effective_end_time OUTPUT_ONLY
Lease.client OUTPUT_ONLY
Lease.exporter OUTPUT_ONLY
Lease.conditions OUTPUT_ONLY
Lease.exporter_name IMMUTABLE
Lease.tags IMMUTABLE
Lease.allow_disabled IMMUTABLE
Lease.context IMMUTABLE
Lease.deprecated_labels OUTPUT_ONLY
GetExporterRequest.name REQUIRED
ListExportersRequest.parent REQUIRED
GetLeaseRequest.name REQUIRED
ListLeasesRequest.parent REQUIRED
CreateLeaseRequest.parent REQUIRED
CreateLeaseRequest.lease_id OPTIONAL
CreateLeaseRequest.lease REQUIRED
UpdateLeaseRequest.lease REQUIRED
UpdateLeaseRequest.update_mask OPTIONAL
DeleteLeaseRequest.name REQUIRED
RotateTokenRequest.parent REQUIRED
""".strip().splitlines()


def test_fields_say_who_may_set_them() -> None:
    names = field_behavior_pb2.FieldBehavior.Name
    actual = [
        f"{message.name}.{field.name} {' '.join(map(names, behaviours))}"
        for message in client_pb2.DESCRIPTOR.message_types_by_name.values()
        for field in message.fields
        if (behaviours := field.GetOptions().Extensions[field_behavior_pb2.field_behavior])
    ]
    assert actual == BEHAVIOURS
    assert client_pb2.Exporter.DESCRIPTOR.fields_by_name["online"].GetOptions().deprecated


def test_resources_have_their_names() -> None:
    resources = {
        message.name: (resource.type, list(resource.pattern))
        for message in client_pb2.DESCRIPTOR.message_types_by_name.values()
        if (resource := message.GetOptions().Extensions[resource_pb2.resource]).type
    }
    assert resources == {
        "Exporter": ("jumpstarter.dev/Exporter", ["namespaces/{namespace}/exporters/{exporter}"]),
        "Lease": ("jumpstarter.dev/Lease", ["namespaces/{namespace}/leases/{lease}"]),
    }


def seconds(value: int) -> timestamp_pb2.Timestamp:
    return timestamp_pb2.Timestamp(seconds=value)


BYTES: list[tuple[Any, str]] = [
    (router_pb2.StreamRequest(payload=b"hi", frame_type=router_pb2.FRAME_TYPE_GOAWAY), "0a02 6869 1007"),
    (router_pb2.StreamRequest(payload=b"", frame_type=router_pb2.FRAME_TYPE_DATA), ""),
    (router_pb2.StreamResponse(payload=b"\x00\xff", frame_type=router_pb2.FRAME_TYPE_PING), "0a02 00ff 1006"),
    (jumpstarter_pb2.UnregisterRequest(reason="x"), "1201 78"),
    (
        jumpstarter_pb2.RegisterRequest(
            labels={"a": "b"}, reports=[jumpstarter_pb2.DriverInstanceReport(uuid="u", parent_uuid="p")]
        ),
        "0a06 0a01 61 1201 62 1206 0a01 75 1201 70",
    ),
    (
        jumpstarter_pb2.DriverInstanceReport(uuid="u", description="", methods_description={"on": "d"}),
        "0a01 75 2200 2a07 0a02 6f6e 1201 64",
    ),
    (jumpstarter_pb2.ListenRequest(lease_name="l"), "0a01 6c"),
    (jumpstarter_pb2.ListenResponse(router_endpoint="r:1", router_token="t"), "0a03 723a31 1201 74"),
    (jumpstarter_pb2.DialResponse(router_endpoint="r:1", router_token="t"), "0a03 723a31 1201 74"),
    (jumpstarter_pb2.StatusResponse(leased=True, lease_name="l", client_name="c"), "0801 1201 6c 1a01 63"),
    (jumpstarter_pb2.StatusResponse(context={"a": "b"}), "2206 0a0161 120162"),
    (jumpstarter_pb2.StatusResponse(leased=False, lease_name=""), "1200"),
    (
        jumpstarter_pb2.ReportStatusRequest(
            status=common_pb2.EXPORTER_STATUS_LEASE_READY, message="", release_lease=False
        ),
        "0804 1200 1800",
    ),
    (
        jumpstarter_pb2.GetReportResponse(
            uuid="u", alternative_endpoints=[jumpstarter_pb2.Endpoint(endpoint="e", client_private_key="k")]
        ),
        "0a01 75 2206 0a01 65 2201 6b",
    ),
    (
        jumpstarter_pb2.DriverCallRequest(uuid="u", method="on", args=[struct_pb2.Value(number_value=1)]),
        "0a01 75 1202 6f6e 1a09 11 000000000000f03f",
    ),
    (jumpstarter_pb2.DriverCallResponse(result=struct_pb2.Value(null_value=0)), "1202 0800"),
    (jumpstarter_pb2.StreamingDriverCallRequest(args=[struct_pb2.Value(bool_value=False)]), "1a02 2000"),
    (jumpstarter_pb2.StreamingDriverCallResponse(result=struct_pb2.Value(string_value="s")), "1203 1a01 73"),
    (
        jumpstarter_pb2.LogStreamResponse(severity="INFO", message="m", source=common_pb2.LOG_SOURCE_UNSPECIFIED),
        "1204 494e464f 1a01 6d 2000",
    ),
    (
        jumpstarter_pb2.GetStatusResponse(
            status=common_pb2.EXPORTER_STATUS_AVAILABLE,
            message="m",
            status_version=300,
            previous_status=common_pb2.EXPORTER_STATUS_UNSPECIFIED,
        ),
        "0802 1201 6d 18ac02 2000",
    ),
    (jumpstarter_pb2.EndSessionResponse(success=True, message=""), "0801 1200"),
    (
        jumpstarter_pb2.GetLeaseResponse(
            duration=duration_pb2.Duration(seconds=60),
            selector=kubernetes_pb2.LabelSelector(match_labels={"a": "b"}),
            begin_time=seconds(1),
            end_time=seconds(2),
            exporter_uuid="u",
            conditions=[kubernetes_pb2.Condition(type="Ready", status="True")],
        ),
        "0a02 083c 1208 1206 0a01 61 1201 62 1a02 0801 2202 0802 2a01 75 320d 0a05 5265616479 1204 54727565",
    ),
    (
        kubernetes_pb2.LabelSelector(
            match_expressions=[kubernetes_pb2.LabelSelectorRequirement(key="k", operator="In", values=["a", "b"])]
        ),
        "0a0d 0a01 6b 1202 496e 1a01 61 1a01 62",
    ),
    (
        kubernetes_pb2.Condition(
            observedGeneration=0, lastTransitionTime=kubernetes_pb2.Time(seconds=1, nanos=0), reason="r", message="m"
        ),
        "1800 2204 0801 1000 2a01 72 3201 6d",
    ),
    (
        client_pb2.Exporter(
            name="n", status=common_pb2.EXPORTER_STATUS_OFFLINE, status_message="s", enabled=False, online=True
        ),
        "0a01 6e 1801 2001 2a01 73 3000",
    ),
    (
        client_pb2.Lease(
            name="n",
            selector="s",
            duration=duration_pb2.Duration(seconds=60),
            begin_time=seconds(1),
            client="c",
            exporter="e",
            exporter_name="x",
            tags={"k": "v"},
            allow_disabled=True,
            deprecated_labels={"a": "b"},
        ),
        "0a01 6e 1201 73 1a02 083c 2a02 0801 4a01 63 5201 65 6201 78 6a06 0a01 6b 1201 76 7001 8201 06 0a01 61 1201 62",
    ),
    (
        client_pb2.ListLeasesRequest(
            parent="p", page_size=100, page_token="t", filter="f", only_active=False, tag_filter="g"
        ),
        "0a01 70 1064 1a01 74 2201 66 2800 3201 67",
    ),
    (
        client_pb2.ListExportersRequest(parent="p", page_size=100, filter="f", show_hidden_labels=True),
        "0a01 70 1064 2201 66 2801",
    ),
    (
        client_pb2.CreateLeaseRequest(parent="p", lease_id="i", lease=client_pb2.Lease(selector="s")),
        "0a01 70 1201 69 1a03 1201 73",
    ),
    (client_pb2.RotateTokenResponse(token="t", expiry=seconds(1)), "0a01 74 1202 0801"),
]


@pytest.mark.parametrize(
    ("message", "expected"), BYTES, ids=[f"{n}-{type(message).__name__}" for n, (message, _) in enumerate(BYTES)]
)
def test_messages_have_these_bytes(message: Any, expected: str) -> None:
    assert message.SerializeToString(deterministic=True).hex() == expected.replace(" ", "")
    assert type(message).FromString(bytes.fromhex(expected)) == message


def test_an_update_mask_may_name_fields_with_underscores() -> None:
    request = client_pb2.UpdateLeaseRequest()
    request.update_mask.paths.append("begin_time")
    assert request.SerializeToString() == b"\x12\x0c\x0a\x0abegin_time"


def test_fields_of_newer_peers_are_ignored() -> None:
    # StatusResponse with a map in field 4, as later versions send it.
    message = jumpstarter_pb2.StatusResponse.FromString(bytes.fromhex("0801 2206 0a01 61 1201 62"))
    assert message.leased
    assert not message.HasField("lease_name")


def test_values_of_newer_peers_are_kept() -> None:
    message = router_pb2.StreamRequest.FromString(bytes.fromhex("1063"))
    assert message.frame_type == 0x63
