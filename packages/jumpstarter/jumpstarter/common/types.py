"""Names for the gRPC objects that annotations speak of."""

from __future__ import annotations

from grpc.aio import Channel as AsyncChannel
from jumpstarter_protocol.jumpstarter.v1.jumpstarter_pb2_grpc import ControllerServiceStub as ControllerStub
from jumpstarter_protocol.jumpstarter.v1.jumpstarter_pb2_grpc import ExporterServiceStub as ExporterStub
from jumpstarter_protocol.jumpstarter.v1.router_pb2_grpc import RouterServiceStub as RouterStub

__all__ = ["AsyncChannel", "ControllerStub", "ExporterStub", "RouterStub"]
