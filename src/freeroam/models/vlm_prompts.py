"""A question to what a model of pictures and text takes in: its chat template, its pictures, its tokens."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from freeroam.models.base import Question
from freeroam.models.vlm_boxes import View
from freeroam.models.vlm_pictures import Eye
from freeroam.vocabulary.errors import InvalidInput

_NAMES = {"system": "SYSTEM", "user": "USER", "assistant": "ASSISTANT"}


@dataclass(frozen=True, slots=True)
class Prompt:
    """One question, ready for the model.

    Attributes:
        inputs: Tensors as the processor gives them, on the processor's side of the machine.
        prompt_tokens: How many tokens it has, those of the pictures included.
        view: How the newest picture is seen; None without pictures.
    """

    inputs: dict[str, Any]
    prompt_tokens: int
    view: View | None


class Prompts:
    """Makes prompts.

    Args:
        config: The model's.
        processor: The model's.
        eye: How it looks at pictures.
    """

    def __init__(self, config: Any, processor: Any, eye: Eye) -> None:
        self._config = config
        self._processor = processor
        self._eye = eye
        tokenizer = processor.tokenizer
        self._image_token = _token(processor, config, "image")
        self._not_in_text = [token for token in (self._image_token, _token(processor, config, "video")) if token]
        vocabulary = tokenizer.get_vocab()
        framed = self._image_token == "<|image_pad|>" and "<|vision_start|>" in vocabulary  # noqa: S105 - no secret
        self._picture = f"<|vision_start|>{self._image_token}<|vision_end|>" if framed else self._image_token
        template = getattr(processor, "chat_template", None) or getattr(tokenizer, "chat_template", None)
        self.has_template = bool(template)

    def prepare(self, question: Question) -> Prompt:
        """Return a question's prompt.

        Raises:
            InvalidInput: The model's own template or processor does not take it.
        """
        frames = question.frames
        text = self._text(question)
        told = self._eye.single if len(frames) == 1 else self._eye.several
        # Said because a picture one or three pixels high would be taken for one whose channels come first.
        told = {**told, "input_data_format": "channels_last"}
        more: dict[str, Any] = {"images": list(frames), "images_kwargs": told} if frames else {}
        begin = self._processor.tokenizer.bos_token
        # A template that begins with the beginning itself must not get it twice.
        text_kwargs = {"add_special_tokens": False} if begin and text.startswith(begin) else {}
        try:
            inputs = dict(self._processor(text=[text], text_kwargs=text_kwargs, return_tensors="pt", **more))
        except (ValueError, TypeError, IndexError, KeyError) as error:
            raise InvalidInput(f"the model's processor did not take the question: {error}") from error
        length = int(inputs["input_ids"].shape[1])
        return Prompt(inputs, length, self._view(question, inputs))

    def _view(self, question: Question, inputs: dict[str, Any]) -> View | None:
        if not question.frames:
            return None
        height_px, width_px = question.frames[-1].shape[:2]
        seen_px = None
        if self._eye.kind == "any_size" and "image_grid_thw" in inputs:
            patch_px = int(self._processor.image_processor.patch_size)
            _, rows, columns = inputs["image_grid_thw"][-1].tolist()
            seen_px = (rows * patch_px, columns * patch_px)
        return self._eye.view(height_px, width_px, seen_px)

    def _text(self, question: Question) -> str:
        turns = self._turns(question)
        if not self.has_template:
            return self._plain(turns)
        try:
            text: str = self._processor.apply_chat_template(turns, add_generation_prompt=True, tokenize=False)
        except Exception as error:  # a template is a program of its author's and may refuse in any way
            raise InvalidInput(f"the model's chat template did not take the messages: {error}") from error
        return text

    def _turns(self, question: Question) -> list[dict[str, Any]]:
        """Return the conversation, the pictures in order before the text of its last question."""
        said: list[Any] = [*(question.params.messages or [])] or [{"role": "user", "content": question.prompt}]
        turns = [
            {"role": turn["role"], "content": [{"type": "text", "text": self._cleaned(turn["content"])}]}
            for turn in said
        ]
        asked = [number for number, turn in enumerate(turns) if turn["role"] == "user"]
        if question.frames and not asked:
            raise InvalidInput("there are pictures but no message of the user that they could belong to")
        if asked:
            content = turns[asked[-1]]["content"]
            turns[asked[-1]]["content"] = [{"type": "image"} for _ in question.frames] + content
        return turns

    def _cleaned(self, text: str) -> str:
        """Take the words out that stand for pictures: they would be counted as pictures that are not there."""
        for token in self._not_in_text:
            text = text.replace(token, " ")
        return text

    def _plain(self, turns: Sequence[dict[str, Any]]) -> str:
        """Write a conversation for a model without a template, as LLaVA 1.5 was trained to read one."""
        written = [
            (
                turn["role"],
                "".join(f"{self._picture}\n" if part["type"] == "image" else part["text"] for part in turn["content"]),
            )
            for turn in turns
        ]
        if self._config.model_type == "paligemma":
            # It was trained on bare tasks ("detect cat"), pictures first, and puts the line's end itself.
            return written[-1][1].replace(f"{self._picture}\n", self._picture)
        return "\n".join([*(f"{_NAMES[role]}: {text}" for role, text in written), "ASSISTANT:"])


def _token(processor: Any, config: Any, what: str) -> str:
    """Return the word that stands for a picture or a video in a prompt; empty if there is none."""
    word = getattr(processor, f"{what}_token", None)
    if isinstance(word, str) and word:
        return word
    number = getattr(config, f"{what}_token_id", None)
    number = getattr(config, f"{what}_token_index", None) if number is None else number
    return "" if number is None else str(processor.tokenizer.convert_ids_to_tokens(number))
