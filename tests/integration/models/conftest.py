"""Which tests of models are collected."""

from __future__ import annotations

import os

collect_ignore = [] if os.environ.get("FREEROAM_LLAMA_CPP") == "1" else ["test_llama_cpp.py"]
