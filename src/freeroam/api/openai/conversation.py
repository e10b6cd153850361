"""A conversation in OpenAI's words, as our models take it: turns of text, the last question, and the pictures."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from freeroam.api.openai.bodies import ContentPart, Message, refusal
from freeroam.vocabulary.inference import ChatMessage

ROLES = {"system": "system", "developer": "system", "user": "user", "assistant": "assistant"}


@dataclass(frozen=True, slots=True)
class Conversation:
    """What was said so far.

    Attributes:
        turns: Every message as text.
        prompt: The last text of the user, for models that read one question and no conversation.
        images: Data URLs, oldest first.
    """

    turns: list[ChatMessage]
    prompt: str
    images: tuple[str, ...]


def read_conversation(messages: Sequence[Message], max_chars: int) -> Conversation:
    """Return the conversation.

    Args:
        messages: Oldest first.
        max_chars: Greatest length of all texts together, because the model reads all of them.

    Raises:
        InvalidInput: A role or a kind of content is not known, the user says nothing, or too much is said.
    """
    turns: list[ChatMessage] = []
    images: list[str] = []
    prompt = ""
    for place, message in enumerate(messages):
        field = f"messages.{place}"
        role = ROLES.get(message.role)
        if role is None:
            known = ", ".join(ROLES)
            raise refusal(f"{field}.role", f"{field}.role: {message.role[:40]!r} is not offered; known are {known}")
        text = _read_content(message.content, f"{field}.content", images)
        turns.append({"role": role, "content": text})  # type: ignore[typeddict-item]  # ROLES has the literals
        if role == "user" and text.strip():
            prompt = text
    length = sum(len(turn["content"]) for turn in turns)
    if length > max_chars:
        raise refusal("messages", f"messages have {length} characters; at most {max_chars} may come (MAX_PROMPT_CHARS)")
    if not prompt:
        raise refusal("messages", "messages: a message of the user with a text is required, which is the question")
    return Conversation(turns, prompt, tuple(images))


def _read_content(content: str | list[ContentPart] | None, field: str, images: list[str]) -> str:
    if content is None:
        raise refusal(field, f"{field} is required")
    if isinstance(content, str):
        return content
    texts = []
    for place, part in enumerate(content):
        if part.type == "text" and part.text is not None:
            texts.append(part.text)
        elif part.type == "image_url" and part.image_url is not None:
            images.append(part.image_url.url)
        elif part.type in {"text", "image_url"}:
            raise refusal(f"{field}.{place}", f"{field}.{place}.{part.type} is required")
        else:
            raise refusal(
                f"{field}.{place}", f"{field}.{place}: {part.type[:40]!r} is not offered; send text or image_url"
            )
    return "\n".join(texts)
