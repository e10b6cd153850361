"""The step loop of language models: questions join and leave between two steps, and one step moves all of them on."""

from __future__ import annotations

import traceback
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch

from freeroam.models.base import Question, Said, Speaker
from freeroam.models.generation_choosing import Way, decide, ways_of
from freeroam.models.generation_sampling import Taste, choose
from freeroam.models.generation_states import AnswerStates
from freeroam.models.generation_text import SpokenText
from freeroam.models.torch_loading import OUT_OF_MEMORY, first_line, free_memory, is_out_of_memory
from freeroam.vocabulary.errors import InvalidInput, ModelError


@dataclass(frozen=True, slots=True)
class Prompt:
    """One question, ready for the model.

    Attributes:
        tokens: What the model reads.
        goes_on: Whether the answer goes on with the prompt's very word, and is no turn of its own.
    """

    tokens: Sequence[int]
    goes_on: bool = False


@dataclass(frozen=True, slots=True)
class Manner:
    """How a model speaks.

    Attributes:
        ends: Tokens that end an answer.
        max_tokens: Longest answer of a question that does not say it, tokens.
        context: Most tokens of prompt and answer together.
        read_tokens: Prompt tokens read in one step while others speak.
        read_tokens_alone: The same while nobody does.
        repetition_penalty: As the model's author wishes; 1 is none.
    """

    ends: frozenset[int]
    max_tokens: int
    context: int
    read_tokens: int
    read_tokens_alone: int
    repetition_penalty: float = 1.0


@dataclass(slots=True)
class _Answer:
    """One answer on its way.

    Attributes:
        most: Tokens it may have.
        ways: How the answer may be spelled, where it is one of several choices.
        read: Tokens of the prompt that the model has read.
        spoken: Tokens so far.
        next: The newest token, which the model has not seen yet.
    """

    key: int
    question: Question
    prompt: Prompt
    text: SpokenText
    taste: Taste
    most: int
    ways: Sequence[Way] = ()
    read: int = 0
    spoken: int = 0
    next: int = 0


class StepLoop(Speaker):
    """Speaks the answers of one model.

    A step gives every answer that is being spoken its next token, in one forward call where the model can, then reads
    prompts, oldest first, as many tokens as the step has room for; an answer whose prompt is read through says its
    first token in that same step.

    Args:
        states: What the model remembers.
        prepare: Makes a prompt of a question; raising fails that question alone.
        tokenizer: The model's.
        manner: How it speaks.
    """

    def __init__(
        self, states: AnswerStates, prepare: Callable[[Question], Prompt], tokenizer: Any, manner: Manner
    ) -> None:
        self._states = states
        self._prepare = prepare
        self._tokenizer = tokenizer
        self._manner = manner
        self._waiting: dict[int, _Answer] = {}
        self._speaking: dict[int, _Answer] = {}

    @property
    def memory_bytes(self) -> int:
        """Bytes that the answers hold, the prompts being read included."""
        return self._states.memory_bytes

    def join(self, key: int, question: Question) -> None:
        """Make the prompt; the model reads it in one of the next steps.

        Raises:
            InvalidInput: The question cannot be put to this model, or leaves no room for an answer.
        """
        prompt = self._prepare(question)
        manner, params = self._manner, question.params
        ways = ways_of(self._tokenizer, params.choices or ())
        length = len(prompt.tokens)
        if length + max((len(way.tokens) for way in ways), default=1) > manner.context:
            raise InvalidInput(
                f"the prompt has {length} tokens and the model reads {manner.context}, its answer included: shorten it"
            )
        if not length:
            raise InvalidInput("the prompt is empty: there is nothing for the model to go on from")
        self._waiting[key] = _Answer(
            key,
            question,
            prompt,
            SpokenText(self._tokenizer, params.stop or (), goes_on=prompt.goes_on),
            Taste.of(params, manner.repetition_penalty, prompt.tokens),
            min(question.most_tokens(manner.max_tokens), manner.context - length),
            ways,
        )

    def leave(self, key: int) -> None:
        """Drop an answer and what the model remembers of it, now."""
        self._waiting.pop(key, None)
        self._speaking.pop(key, None)
        with torch.inference_mode():
            self._states.drop(key)

    def step(self) -> list[Said]:
        """Speak one token of every answer, and read prompts."""
        with torch.inference_mode():
            said = self._speak() if self._speaking else []
            return said + self._read()

    def _speak(self) -> list[Said]:
        try:
            keys, scores = self._states.go_on({key: answer.next for key, answer in self._speaking.items()})
        except Exception as error:
            longest = self._states.longest
            if longest is None or not is_out_of_memory(error):
                raise
            # The others go on without the one that needed most; the call that failed has changed nothing.
            return [self._failed(self._speaking[longest], error)]
        answers = [self._speaking[key] for key in keys]
        tokens = choose(scores, [answer.taste for answer in answers])
        return [self._say(answer, token) for answer, token in zip(answers, tokens, strict=True)]

    def _say(self, answer: _Answer, token: int) -> Said:
        """Take a token that was chosen; the end of an answer is one too, and shows what was held back."""
        answer.next = token
        answer.spoken += 1
        is_end = token in self._manner.ends
        piece = "" if is_end else answer.text.add(token)
        reason = "stop" if is_end or answer.text.has_stopped else "length" if answer.spoken >= answer.most else None
        if reason is None:
            return Said(answer.key, (piece,))
        piece += answer.text.end()
        reason = "stop" if answer.text.has_stopped else reason
        return self._ended(answer, (piece,), {"finish_reason": reason, "completion_tokens": answer.spoken})

    def _ended(self, answer: _Answer, pieces: tuple[str, ...], document: dict[str, Any]) -> Said:
        self.leave(answer.key)
        return Said(answer.key, pieces, {"prompt_tokens": len(answer.prompt.tokens), **document})

    def _failed(self, answer: _Answer, error: Exception) -> Said:
        self.leave(answer.key)
        if is_out_of_memory(error):
            free_memory()
            error = ModelError(
                f"memory ran out with {len(answer.prompt.tokens) + answer.spoken} tokens of this question and "
                f"{len(self._speaking)} others being answered: {first_line(error)}",
                code=OUT_OF_MEMORY,
            )
        return Said(answer.key, (), error)

    def _read(self) -> list[Said]:
        """Read prompts, oldest first."""
        parts: dict[int, Sequence[int]] = {}
        room = self._manner.read_tokens if self._speaking else self._manner.read_tokens_alone
        for answer in self._waiting.values():
            if room <= 0:
                break
            upto = answer.read + room if self._states.reads_in_parts else len(answer.prompt.tokens)
            parts[answer.key] = answer.prompt.tokens[answer.read : upto]
            room -= len(parts[answer.key])
        return [each for each in self._read_together(parts) if each.texts or each.answer is not None]

    def _read_together(self, parts: dict[int, Sequence[int]]) -> list[Said]:
        answers = [self._waiting[key] for key in parts]
        if len(answers) <= 1:
            return [self._read_alone(answer, parts[answer.key]) for answer in answers]
        try:
            scores = self._states.read(parts)
        except Exception:
            traceback.print_exc()
            # One of them may be to blame, so each is read again by itself, from its beginning.
            return [self._read_again(answer, answer.read + len(parts[answer.key])) for answer in answers]
        return [self._heard(answer, len(parts[answer.key]), scores[answer.key]) for answer in answers]

    def _read_again(self, answer: _Answer, upto: int) -> Said:
        self._states.drop(answer.key)
        answer.read = 0
        return self._read_alone(answer, answer.prompt.tokens[:upto])

    def _read_alone(self, answer: _Answer, part: Sequence[int]) -> Said:
        """Read a prompt, or a part of one; what goes wrong costs this answer only."""
        try:
            scores = self._states.read({answer.key: part})[answer.key]
        except Exception as error:
            traceback.print_exc()
            return self._failed(answer, error)
        return self._heard(answer, len(part), scores)

    def _heard(self, answer: _Answer, count: int, scores: torch.Tensor) -> Said:
        """Say the first token of an answer whose prompt is read through."""
        answer.read += count
        if answer.read < len(answer.prompt.tokens):
            return Said(answer.key)
        try:
            if answer.ways:
                return self._decided(answer, scores)
            (token,) = choose(scores[None], [answer.taste])
            self._states.begin(answer.key)
        except Exception as error:
            traceback.print_exc()
            return self._failed(answer, error)
        self._speaking[answer.key] = self._waiting.pop(answer.key)
        return self._say(answer, token)

    def _decided(self, answer: _Answer, scores: torch.Tensor) -> Said:
        ends = () if answer.prompt.goes_on else sorted(self._manner.ends)
        choice, tokens, shares = decide(self._states, answer.key, scores, answer.ways, ends)
        pieces = (choice, *[""] * (tokens - 1))
        document = {
            "text": choice,
            "confidence": shares[choice],
            "completion_tokens": tokens,
            "finish_reason": "stop",
            "metadata": {"choices": shares},
        }
        return self._ended(answer, pieces, document)
