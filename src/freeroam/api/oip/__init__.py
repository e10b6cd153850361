"""The Open Inference Protocol v2: tensors in, tensors out; REST here, the same over gRPC in ``api.grpc``."""
