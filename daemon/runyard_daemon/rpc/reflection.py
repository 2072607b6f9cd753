"""grpc.reflection.v1 and v1alpha: what the daemon offers, for clients without .proto files."""

from __future__ import annotations

from collections.abc import Collection

import grpc
import grpc.aio
from google.protobuf.descriptor import FileDescriptor
from google.protobuf.descriptor_pool import Default

from runyard_daemon.rpc.idle import Duplex, incoming
from runyardpb.grpc.reflection.v1 import reflection_pb2 as pb
from runyardpb.grpc.reflection.v1.reflection_pb2_grpc import ServerReflectionServicer

V1ALPHA = "grpc.reflection.v1alpha.ServerReflection"
"""The older name of the same service; its messages are the same on the wire."""
IDLE_S = 300.0
"""A client that asks nothing for that long is let go."""


class ReflectionService(ServerReflectionServicer):
    """Answers from the descriptors that the daemon itself uses."""

    def __init__(self, services: Collection[str]) -> None:
        self._services = sorted(services)
        self._pool = Default()

    async def ServerReflectionInfo(  # type: ignore[override]  # a coroutine that uses write
        self,
        requests: object,
        context: Duplex[pb.ServerReflectionRequest, pb.ServerReflectionResponse],
    ) -> None:
        """Answers each request in its order."""
        async for request in incoming(context, IDLE_S):
            answer = pb.ServerReflectionResponse(valid_host=request.host, original_request=request)
            try:
                self._answer(request, answer)
            except KeyError:
                answer.error_response.error_code = grpc.StatusCode.NOT_FOUND.value[0]
                answer.error_response.error_message = "the daemon knows nothing of that name"
            await context.write(answer)

    def _answer(
        self, request: pb.ServerReflectionRequest, answer: pb.ServerReflectionResponse
    ) -> None:
        """Fills in the answer. Raises KeyError for what there is not."""
        asked = request.WhichOneof("message_request")
        if asked == "list_services":
            for name in self._services:
                answer.list_services_response.service.add(name=name)
        elif asked == "file_by_filename":
            _put_files(answer, self._pool.FindFileByName(request.file_by_filename))
        elif asked == "file_containing_symbol":
            _put_files(answer, self._file_of(request.file_containing_symbol))
        elif asked == "all_extension_numbers_of_type":
            # The contract has no extensions.
            name = request.all_extension_numbers_of_type
            self._pool.FindMessageTypeByName(name)
            answer.all_extension_numbers_response.base_type_name = name
        else:
            raise KeyError(asked)

    def _file_of(self, symbol: str) -> FileDescriptor:
        """The file that declares a symbol; not every protobuf finds methods by name."""
        try:
            return self._pool.FindFileContainingSymbol(symbol)
        except KeyError:
            service, _, method = symbol.rpartition(".")
            return (
                self._pool.FindServiceByName(service)
                .methods_by_name[method]
                .containing_service.file
            )


def _put_files(answer: pb.ServerReflectionResponse, file: FileDescriptor) -> None:
    """Adds a file and all that it imports, each once."""
    todo, seen = [file], {file.name}
    while todo:
        current = todo.pop()
        answer.file_descriptor_response.file_descriptor_proto.append(current.serialized_pb)
        for imported in current.dependencies:
            if imported.name not in seen:
                seen.add(imported.name)
                todo.append(imported)


def register_v1alpha(server: grpc.aio.Server, service: ReflectionService) -> None:
    """Offers the service under its older name too."""
    handler = grpc.stream_stream_rpc_method_handler(
        service.ServerReflectionInfo,
        request_deserializer=pb.ServerReflectionRequest.FromString,
        response_serializer=pb.ServerReflectionResponse.SerializeToString,
    )
    server.add_generic_rpc_handlers(
        (grpc.method_handlers_generic_handler(V1ALPHA, {"ServerReflectionInfo": handler}),)
    )
