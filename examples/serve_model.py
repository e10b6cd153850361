"""Serve models from a program of your own: a plain script, without a `__main__` guard.

Run it, then ask it:

    python examples/serve_model.py
    curl -X POST http://127.0.0.1:8000/infer -H "Content-Type: application/json" \
        -d '{"model": "gpt2", "prompt": "Once upon a time", "max_tokens": 50}'
    curl -N -X POST http://127.0.0.1:8000/infer_stream -H "Content-Type: application/json" \
        -d '{"model": "gpt2", "prompt": "Once upon a time", "max_tokens": 50}'

With a path it serves a real model, of whatever type lies there (a folder of a hub model, a *.gguf or a *.onnx file):

    python examples/serve_model.py /models/SmolLM2-135M-Instruct.gguf
"""

import argparse
import asyncio

from freeroam import InferenceServer, ModelConfig

parser = argparse.ArgumentParser(description="Serve one model.")
parser.add_argument("model_path", nargs="?", help="a model; without one, a mock that speaks numbered words")
parser.add_argument("--host", default="127.0.0.1")
parser.add_argument("--port", type=int, default=8000)
arguments = parser.parse_args()

server = InferenceServer(max_connections=256, request_timeout=30.0, max_batch_size=32, max_batch_wait_ms=50)

if arguments.model_path:
    model = ModelConfig(name="gpt2", version="1.0.0", model_path=arguments.model_path, device="auto")
else:
    model = ModelConfig(
        name="gpt2", version="1.0.0", model_type="fake", options={"tokens": 100, "token_latency_ms": 20}
    )
server.register_model(model)

asyncio.run(server.start(host=arguments.host, port=arguments.port))
