"""Starts a score server from the installed wheel, with the newest packages that its requirements allow, and asks it."""

import sys

import grpc
from google.protobuf.message_factory import GetMessageClass
from grpc_health.v1 import health_pb2

from infobatch_server.server import ScoreServer

if "torch" in sys.modules:
    sys.exit("the server imports torch")
with ScoreServer() as server, grpc.insecure_channel(str(server.grpc_address)) as channel:
    for method in health_pb2.DESCRIPTOR.services_by_name["Health"].methods:
        request, answer = (GetMessageClass(kind) for kind in (method.input_type, method.output_type))
        if method.name != "Watch":
            call = channel.unary_unary(
                f"/grpc.health.v1.Health/{method.name}",
                request_serializer=request.SerializeToString,
                response_deserializer=answer.FromString,
            )
            print(method.name, str(call(request(), timeout=10)).split())
