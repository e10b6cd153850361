"""The methods of ``inference.GRPCInferenceService``."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from typing import Any

import grpc

from freeroam.api.doorkeeper import Doorkeeper
from freeroam.api.grpc import inference_pb2 as wire
from freeroam.api.grpc.messages import from_json, read_request, values_of, write_response
from freeroam.api.grpc.outlets import Context, Outlet, Outlets
from freeroam.api.grpc.passage import SERVICE, Passage, Visit
from freeroam.api.grpc.streaming import InferStream
from freeroam.api.inference_calls import open_call
from freeroam.api.journal import audit
from freeroam.api.oip import descriptions, repository
from freeroam.api.oip.answers import answer_tensors, parameters_of
from freeroam.api.oip.questions import read_question
from freeroam.api.parts import ApiConfig, Parts
from freeroam.security.keys import Right


class Methods:
    """What clients may call.

    Args:
        parts: The engine and what counts.
        doorkeeper: Shared with the HTTP door.
        outlets: Where answers go out.
    """

    def __init__(self, parts: Parts, doorkeeper: Doorkeeper, outlets: Outlets) -> None:
        self._parts = parts
        self._config: ApiConfig = doorkeeper.config
        self._passage = Passage(parts, doorkeeper, outlets)

    def table(self) -> Any:
        """Return what gRPC looks methods up in."""
        unary = self._passage.unary
        methods = {
            "ServerLive": unary("ServerLive", Right.READ, wire.ServerLiveRequest, self._server_live),
            "ServerReady": unary("ServerReady", Right.READ, wire.ServerReadyRequest, self._server_ready),
            "ModelReady": unary("ModelReady", Right.READ, wire.ModelReadyRequest, self._model_ready),
            "ServerMetadata": unary("ServerMetadata", Right.READ, wire.ServerMetadataRequest, self._server_metadata),
            "ModelMetadata": unary("ModelMetadata", Right.READ, wire.ModelMetadataRequest, self._model_metadata),
            "ModelConfig": unary("ModelConfig", Right.READ, wire.ModelConfigRequest, self._model_config),
            "ModelStatistics": unary("ModelStatistics", Right.READ, wire.ModelStatisticsRequest, self._statistics),
            "ModelInfer": unary("ModelInfer", Right.RUN, wire.ModelInferRequest, self._infer),
            "ModelStreamInfer": self._passage.stream("ModelStreamInfer", Right.RUN, self._stream_infer),
            "RepositoryIndex": unary("RepositoryIndex", Right.READ, wire.RepositoryIndexRequest, self._index),
            "RepositoryModelLoad": unary(
                "RepositoryModelLoad", Right.ADMIN, wire.RepositoryModelLoadRequest, self._load
            ),
            "RepositoryModelUnload": unary(
                "RepositoryModelUnload", Right.ADMIN, wire.RepositoryModelUnloadRequest, self._unload
            ),
        }
        return grpc.method_handlers_generic_handler(SERVICE, methods)

    async def _server_live(self, _: Any, __: Visit) -> wire.ServerLiveResponse:
        return wire.ServerLiveResponse(live=True)

    async def _server_ready(self, _: Any, __: Visit) -> wire.ServerReadyResponse:
        return wire.ServerReadyResponse(ready=descriptions.is_server_ready(self._parts))

    async def _model_ready(self, request: wire.ModelReadyRequest, _: Visit) -> wire.ModelReadyResponse:
        info = descriptions.find_model(self._parts.engine, request.name, request.version)
        return wire.ModelReadyResponse(ready=info.state in descriptions.ANSWERING)

    async def _server_metadata(self, _: Any, __: Visit) -> wire.ServerMetadataResponse:
        return from_json(wire.ServerMetadataResponse, descriptions.server_metadata())

    async def _model_metadata(self, request: wire.ModelMetadataRequest, _: Visit) -> wire.ModelMetadataResponse:
        info = descriptions.find_model(self._parts.engine, request.name, request.version)
        versions = descriptions.versions_of(self._parts.engine.list_models(), info.name)
        return from_json(wire.ModelMetadataResponse, descriptions.model_metadata(info, versions))

    async def _model_config(self, request: wire.ModelConfigRequest, _: Visit) -> wire.ModelConfigResponse:
        info = descriptions.find_model(self._parts.engine, request.name, request.version)
        return from_json(wire.ModelConfigResponse, {"config": descriptions.model_config(info)})

    async def _statistics(self, request: wire.ModelStatisticsRequest, _: Visit) -> wire.ModelStatisticsResponse:
        engine = self._parts.engine
        if request.name:
            infos = [descriptions.find_model(engine, request.name, request.version)]
        else:
            infos = engine.list_models()
        stats = [descriptions.model_statistics(info) for info in infos]
        return from_json(wire.ModelStatisticsResponse, {"model_stats": stats})

    async def _infer(self, request: wire.ModelInferRequest, visit: Visit) -> wire.ModelInferResponse:
        tensors, parameters, outputs = read_request(request)
        reference = descriptions.reference_of(request.model_name, request.model_version)
        question = read_question(reference, tensors, parameters, outputs, self._config)
        call = open_call(question.wish, visit.arrival(question.timeout_s), self._parts, self._config)
        async with call:
            await call.bring(question.images)
            output = await call.answer()
        answered = answer_tensors(output, question.outputs)
        return write_response(request, answered, parameters_of(output), output.model, output.version)

    async def _stream_infer(self, visit: Visit, outlet: Outlet) -> None:
        await InferStream(visit, outlet, self._passage, self._parts, self._config).run()

    async def _index(self, request: wire.RepositoryIndexRequest, _: Visit) -> wire.RepositoryIndexResponse:
        index = repository.list_index(self._parts, only_ready=request.ready)
        return from_json(wire.RepositoryIndexResponse, {"models": index})

    async def _load(self, request: wire.RepositoryModelLoadRequest, visit: Visit) -> wire.RepositoryModelLoadResponse:
        parameters = values_of(request.parameters)
        await repository.load(self._parts, self._config, request.model_name, parameters, _audit(visit))
        return wire.RepositoryModelLoadResponse()

    async def _unload(
        self, request: wire.RepositoryModelUnloadRequest, visit: Visit
    ) -> wire.RepositoryModelUnloadResponse:
        await repository.unload(self._parts, request.model_name, _audit(visit))
        return wire.RepositoryModelUnloadResponse()


def _audit(visit: Visit) -> Callable[..., None]:
    scope = {"freeroam.caller": visit.caller, "freeroam.request_id": visit.request_id}
    return lambda deed, **fields: audit(scope, deed, **fields)


class Unoffered(grpc.GenericRpcHandler):  # type: ignore[misc]  # the library has no types
    """Says of the protocol's other methods why they are not here, instead of only that they are not."""

    def service(self, handler_call_details: Any) -> Any:
        """Return what answers a call of an unknown method of our service; None for other services."""
        prefix, _, name = handler_call_details.method.rpartition("/")
        if prefix != f"/{SERVICE}":
            return None
        reason = "send tensors inside the request" if "SharedMemory" in name else "see the documentation for what is"

        async def handle(_: AsyncIterator[bytes], context: Context) -> None:
            await context.abort(grpc.StatusCode.UNIMPLEMENTED, f"{name[:100]} is not offered here; {reason}")

        return grpc.stream_stream_rpc_method_handler(handle)
