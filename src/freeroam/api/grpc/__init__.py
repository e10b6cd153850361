"""The gRPC door: the Open Inference Protocol's service, its health and its reflection."""

from freeroam.processes.grpc_surroundings import prepare_for_grpc

prepare_for_grpc()
