"""A question to the tokens that a language model reads: its chat template, or the bare prompt."""

from __future__ import annotations

from typing import Any

from freeroam.models.base import Question
from freeroam.models.generation import Prompt
from freeroam.vocabulary.errors import ConfigurationError, InvalidInput


class TextPrompts:
    """Makes prompts.

    Args:
        tokenizer: The model's.
        chat: Whether a prompt is put into the chat template; None does so if there is one.
        template: A template to use instead of the tokenizer's own.
        template_options: What the template is told besides the conversation.
        system_prompt: Said first in every conversation that does not begin with one of its own.

    Raises:
        ConfigurationError: A conversation is wished and there is no template for it.
    """

    def __init__(
        self,
        tokenizer: Any,
        *,
        chat: bool | None = None,
        template: str = "",
        template_options: dict[str, Any] | None = None,
        system_prompt: str = "",
    ) -> None:
        self._tokenizer = tokenizer
        self._template = template or tokenizer.chat_template
        self._template_options = template_options or {}
        self._system_prompt = system_prompt
        self.has_template = bool(self._template)
        self._is_chat = self.has_template if chat is None else chat
        if (self._is_chat or system_prompt) and not self.has_template:
            raise ConfigurationError(
                "chat and system_prompt need a chat template, and the model's tokenizer has none; give chat_template"
            )

    def prepare(self, question: Question) -> Prompt:
        """Return a question's tokens.

        Raises:
            InvalidInput: It has pictures, the template does not take it, or there is no template for its messages.
        """
        if question.frames:
            raise InvalidInput(
                f"this model reads text only and was given {len(question.frames)} pictures; ask one that sees"
            )
        messages = question.params.messages
        wished = question.params.chat
        if not messages and not (self._is_chat if wished is None else wished):
            return Prompt(self._tokens(question.prompt, is_begun=False), goes_on=True)
        if not self.has_template:
            raise InvalidInput("this model has no chat template, so it goes on with a text and takes no messages")
        turns: list[dict[str, str]] = [dict(turn) for turn in messages or ()]  # type: ignore[arg-type]
        turns = turns or [{"role": "user", "content": question.prompt}]
        if self._system_prompt and turns[0]["role"] != "system":
            turns.insert(0, {"role": "system", "content": self._system_prompt})
        return Prompt(self._tokens(self._written(turns), is_begun=True))

    def _written(self, turns: list[dict[str, str]]) -> str:
        try:
            text: str = self._tokenizer.apply_chat_template(
                turns,
                chat_template=self._template,
                add_generation_prompt=True,
                tokenize=False,
                **self._template_options,
            )
        except Exception as error:  # a template is a program of its author's and may refuse in any way
            raise InvalidInput(f"the model's chat template did not take the messages: {error}") from error
        return text

    def _tokens(self, text: str, *, is_begun: bool) -> list[int]:
        """Return the tokens of a text; the template has written the mark of the beginning itself if it wants one."""
        tokens: list[int] = self._tokenizer(text, add_special_tokens=not is_begun)["input_ids"]
        return tokens
