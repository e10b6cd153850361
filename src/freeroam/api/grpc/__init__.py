"""The gRPC door: the Open Inference Protocol's service, its health and its reflection."""
