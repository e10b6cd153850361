"""From ``MODEL_PATH`` to a causal language model and its tokenizer: a folder, a GGUF file or a hub id."""

from __future__ import annotations

import gc
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path, PurePath
from typing import TYPE_CHECKING, Any

from freeroam.models.torch_loading import (
    EXTRA,
    check_path,
    first_line,
    is_out_of_memory,
    loading_arguments,
    need_transformers,
    told_honestly,
)
from freeroam.vocabulary.errors import ConfigurationError, MissingExtra, ModelError

if TYPE_CHECKING:
    import torch

MODEL_TYPE = "transformers_text"
UNKNOWN_CONTEXT = 32_768
"""Tokens of prompt and answer of a model that does not say what it was trained for."""


@dataclass(frozen=True, slots=True)
class Weights:
    """Where a model's files are.

    Attributes:
        asked: What ``MODEL_PATH`` said.
        place: A folder or a hub id.
        gguf_file: The file in it that holds all; None for a model in the format of transformers.
    """

    asked: str
    place: str
    gguf_file: str | None

    @classmethod
    def at(cls, model_path: str, gguf_file: str = "") -> Weights:
        """Find the files.

        Raises:
            ConfigurationError: There is nothing, or several things to choose from.
            MissingExtra: It is a GGUF file and gguf is not installed.
        """
        # By its letters, because files of the hub's own cache are links to elsewhere.
        if gguf_file and (PurePath(gguf_file).is_absolute() or ".." in PurePath(gguf_file).parts):
            raise ConfigurationError(f"gguf_file is {gguf_file!r}: expected a file below MODEL_PATH, without ..")
        path = check_path(model_path, MODEL_TYPE)
        if path is None:
            found = cls(model_path, model_path, gguf_file or None)
        elif path.is_file():
            if path.suffix.lower() != ".gguf":
                raise ConfigurationError(
                    f"MODEL_PATH={model_path}: a single file must be GGUF; otherwise name the folder that holds "
                    "config.json, the weights and the tokenizer"
                )
            found = cls(model_path, str(path.parent), path.name)
        else:
            found = cls(model_path, str(path), _file_in(model_path, path, gguf_file))
        if found.gguf_file:
            try:
                import gguf  # noqa: F401
            except ImportError as error:
                raise MissingExtra("gguf", EXTRA) from error
        return found

    def load(self, device: torch.device, dtype: torch.dtype, quantization: str) -> tuple[Any, Any, Any]:
        """Return the configuration, the tokenizer and the model; raises as the three that read them do."""
        with self.being_read():
            config, tokenizer = self.load_config(), self.load_tokenizer()
            return config, tokenizer, self.load_model(config, device, dtype, quantization)

    @contextmanager
    def being_read(self) -> Iterator[None]:
        """Keep Python's collector still while a GGUF file is read; other files are read as ever.

        The reader makes millions of small objects which all stay, and the collector would look through them again and
        again: a third of the time that loading takes.
        """
        was_enabled = gc.isenabled()
        if self.gguf_file:
            gc.disable()
        try:
            yield
        finally:
            if was_enabled:
                gc.enable()

    def load_config(self) -> Any:
        """Return the model's configuration.

        Raises:
            ConfigurationError: It cannot be read, its architecture is not known, or it is no causal language model.
        """
        transformers = need_transformers()
        from transformers.models.auto.modeling_auto import (
            MODEL_FOR_CAUSAL_LM_MAPPING,
            MODEL_FOR_CAUSAL_LM_MAPPING_NAMES,
            MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING,
        )

        with self._read_as("no model that transformers can read"):
            config = transformers.AutoConfig.from_pretrained(self.place, trust_remote_code=False, **self._more)
        names = set(config.architectures or ())
        is_known = type(config) in MODEL_FOR_CAUSAL_LM_MAPPING and not config.is_encoder_decoder
        if is_known and (not names or names & set(MODEL_FOR_CAUSAL_LM_MAPPING_NAMES.values())):
            return config
        sees = type(config) in MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING
        hint = "; it looks at pictures: use MODEL_TYPE=transformers_vlm" if sees else ""
        what = ", ".join(sorted(names)) or config.model_type
        raise ConfigurationError(f"MODEL_PATH={self.asked}: {what} is no causal language model{hint}")

    def load_tokenizer(self) -> Any:
        """Return the model's tokenizer.

        Raises:
            ConfigurationError: There is none, or it cannot be read.
        """
        with self._read_as("its tokenizer could not be loaded"):
            tokenizer = need_transformers().AutoTokenizer.from_pretrained(
                self.place, trust_remote_code=False, **self._more
            )
        if not len(tokenizer):
            raise ConfigurationError(
                f"MODEL_PATH={self.asked}: there is no tokenizer; tokenizer.json of the model belongs into the folder"
            )
        return tokenizer

    def load_model(self, config: Any, device: torch.device, dtype: torch.dtype, quantization: str) -> Any:
        """Return the model with its weights, on its device.

        Args:
            config: From ``load_config``; to read it again would take seconds for a GGUF file.
            device: Where it will be.
            dtype: Number format of the weights.
            quantization: See ``torch_loading.check_quantization``.

        Raises:
            ConfigurationError: This quantization cannot be used on this device.
            ModelError: ``load_failed``, also if weights are missing, or ``out_of_memory``.
        """
        arguments = loading_arguments(device, dtype, quantization) | self._more
        with told_honestly(f"MODEL_PATH={self.asked}: loading"):
            model, told = need_transformers().AutoModelForCausalLM.from_pretrained(
                self.place, config=config, output_loading_info=True, **arguments
            )
        missing = sorted(told["missing_keys"])
        if missing:
            names = ", ".join(missing[:3]) + (f" and {len(missing) - 3} more" if len(missing) > 3 else "")
            raise ModelError(f"MODEL_PATH={self.asked}: the weights lack {names}", code="load_failed")
        return model

    @property
    def _more(self) -> dict[str, Any]:
        return {"gguf_file": self.gguf_file} if self.gguf_file else {}

    @contextmanager
    def _read_as(self, what: str) -> Iterator[None]:
        try:
            yield
        except Exception as error:  # whatever a broken file makes of a reader, it is the setting that is wrong
            if is_out_of_memory(error):
                raise
            raise ConfigurationError(f"MODEL_PATH={self.asked}: {what} ({first_line(error)})") from error


def _file_in(model_path: str, folder: Path, gguf_file: str) -> str | None:
    if gguf_file:
        if not (folder / gguf_file).is_file():
            raise ConfigurationError(f"gguf_file is {gguf_file!r}: there is no such file in MODEL_PATH={model_path}")
        return gguf_file
    if (folder / "config.json").is_file():
        return None
    files = sorted(file.name for file in folder.glob("*.gguf"))
    if len(files) == 1:
        return files[0]
    if files:
        raise ConfigurationError(
            f"MODEL_PATH={model_path}: there are several GGUF files ({', '.join(files)}); name one of them"
        )
    raise ConfigurationError(f"MODEL_PATH={model_path}: the folder holds neither config.json nor a GGUF file")


def find_context(config: Any, wanted: int | None) -> int:
    """Return the most tokens of prompt and answer together: what the model was trained for, or less if so wished."""
    trained = getattr(config.get_text_config(decoder=True), "max_position_embeddings", None)
    return min(trained or wanted or UNKNOWN_CONTEXT, wanted or trained or UNKNOWN_CONTEXT)
