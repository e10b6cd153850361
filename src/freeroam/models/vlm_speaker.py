"""Speaks the answers of a vision-language model together: they join and leave between two steps of the network."""

from __future__ import annotations

import traceback
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch

from freeroam.models.base import Question, Said, Speaker
from freeroam.models.generation_choosing import Way, decide, ways_of
from freeroam.models.generation_sampling import Taste, choose
from freeroam.models.generation_text import SpokenText
from freeroam.models.torch_loading import OUT_OF_MEMORY, first_line, free_memory, is_out_of_memory
from freeroam.models.vlm_batch import Apart, Begun, Network, Together
from freeroam.models.vlm_boxes import read_boxes
from freeroam.models.vlm_choosing import PromptScores
from freeroam.models.vlm_prompts import Prompt
from freeroam.vocabulary.errors import InvalidInput, ModelError

_PROMPT_TOKENS = 4096
"""Prompt tokens put through the model in one step; more wait for the next, so that the others speak on."""


@dataclass(slots=True)
class _Answer:
    """One answer on its way."""

    key: int
    question: Question
    prompt: Prompt
    text: SpokenText
    taste: Taste
    most: int
    ways: Sequence[Way] = ()
    spoken: int = 0
    pieces: list[str] = field(default_factory=list)


@dataclass(frozen=True, slots=True)
class _Newcomers:
    """Answers whose prompts went through the model together, and which go on.

    Attributes:
        begun: What the model made of the prompts, of answers that ended at once too.
        rows: Which of them go on.
        answers: Those.
        tokens: Their first tokens, ``[rows, 1]``.
    """

    begun: Begun
    rows: list[int]
    answers: list[_Answer]
    tokens: torch.Tensor


class VlmSpeaker(Speaker):
    """The step loop.

    A step decodes one token of every answer that is being spoken, then puts the prompts of new ones through the model;
    those that look alike (as many tokens, pictures of one size) go through it together.

    Args:
        network: The model.
        prepare: Makes a prompt of a question; raising fails that question alone.
        tokenizer: The model's.
        ends: Tokens that end an answer.
        max_tokens: Longest answer of a question that does not say it, tokens.
        context: Most tokens of prompt and answer together.
        repetition_penalty: As the model's author wishes; 1 is none.
    """

    def __init__(
        self,
        network: Network,
        prepare: Callable[[Question], Prompt],
        tokenizer: Any,
        *,
        ends: frozenset[int],
        max_tokens: int,
        context: int,
        repetition_penalty: float = 1.0,
    ) -> None:
        self._network = network
        self._prepare = prepare
        self._tokenizer = tokenizer
        self._ends = ends
        self._repetition_penalty = repetition_penalty
        self._max_tokens = max_tokens
        self._context = context
        self._waiting: list[_Answer] = []
        self._rows: list[_Answer | None] = []
        self._next: torch.Tensor | None = None
        self._batch: Together | Apart = self._empty_batch()

    def join(self, key: int, question: Question) -> None:
        """Make the prompt; the model reads it in one of the next steps.

        Raises:
            InvalidInput: The question cannot be put to this model.
        """
        prompt = self._prepare(question)
        params = question.params
        ways = ways_of(self._tokenizer, params.choices or ())
        room = self._context - prompt.prompt_tokens
        if max((len(way.tokens) for way in ways), default=1) > room:
            raise InvalidInput(
                f"the question has {prompt.prompt_tokens} tokens with its {len(question.frames)} pictures, and the "
                f"model reads {self._context}, its answer included: give fewer or smaller pictures, or a shorter text"
            )
        asked = prompt.inputs["input_ids"][0].tolist() if self._repetition_penalty != 1.0 else ()
        answer = _Answer(
            key,
            question,
            prompt,
            SpokenText(self._tokenizer, params.stop or ()),
            Taste.of(params, self._repetition_penalty, asked),
            min(question.most_tokens(self._max_tokens), room),
            ways,
        )
        self._waiting.append(answer)

    def leave(self, key: int) -> None:
        """Drop an answer; its row goes with the next step, or at once if it is the last."""
        self._waiting = [answer for answer in self._waiting if answer.key != key]
        self._rows = [None if row is not None and row.key == key else row for row in self._rows]
        if not any(self._rows):
            self._rows, self._next, self._batch = [], None, self._empty_batch()

    def step(self) -> list[Said]:
        """Speak one token of every answer."""
        with torch.inference_mode():
            return self._step()

    def _step(self) -> list[Said]:
        said: list[Said] = []
        kept = [number for number, row in enumerate(self._rows) if row is not None]
        if len(kept) < len(self._rows):
            self._regroup(kept, [])
        if self._rows:
            said += self._spoken(self._decode())
        begun = self._begin(said)
        self._regroup([number for number, row in enumerate(self._rows) if row is not None], begun)
        return said

    def _decode(self) -> torch.Tensor:
        assert self._next is not None
        try:
            return self._batch.step(self._next)
        except Exception as error:
            if not is_out_of_memory(error):
                raise
            free_memory()
            raise ModelError(
                f"memory ran out with {len(self._rows)} answers being spoken; lower max_batch or context: "
                f"{first_line(error)}",
                code=OUT_OF_MEMORY,
            ) from error

    def _empty_batch(self) -> Together | Apart:
        return Together(self._network) if self._network.can_merge else Apart(self._network)

    def _spoken(self, logits: torch.Tensor) -> list[Said]:
        """Choose and say the next token of every row; rows that end become None."""
        rows = [row for row in self._rows if row is not None]
        chosen = choose(logits, [row.taste for row in rows])
        self._next = torch.tensor(chosen, device=logits.device)[:, None]
        said = []
        for number, (answer, token) in enumerate(zip(rows, chosen, strict=True)):
            said.append(self._say(answer, token))
            if said[-1].answer is not None:
                self._rows[number] = None
        return said

    def _say(self, answer: _Answer, token: int) -> Said:
        """Take a token that was chosen; the end of an answer is one too, and shows what was held back."""
        answer.spoken += 1
        is_end = token in self._ends
        piece = "" if is_end else answer.text.add(token)
        reason = "stop" if is_end or answer.text.has_stopped else "length" if answer.spoken >= answer.most else None
        answer.pieces.append(piece)
        if reason is None:
            return Said(answer.key, (piece,))
        rest = answer.text.end()
        answer.pieces.append(rest)
        reason = "stop" if answer.text.has_stopped else reason
        document = {"text": "".join(answer.pieces), "finish_reason": reason}
        return Said(answer.key, (piece + rest,), self._document(answer, document))

    def _document(self, answer: _Answer, said: dict[str, Any]) -> dict[str, Any]:
        question = answer.question
        asked = question.params.messages[-1]["content"] if question.params.messages else question.prompt
        threshold = question.params.threshold or 0.0
        boxes = read_boxes(said["text"], asked, answer.prompt.view)
        return {
            "predictions": [box for box in boxes if box["confidence"] >= threshold],
            "prompt_tokens": answer.prompt.prompt_tokens,
            "completion_tokens": answer.spoken,
            "finish_reason": "stop",
            **said,
        }

    def _begin(self, said: list[Said]) -> list[_Newcomers]:
        """Put waiting prompts through the model and say their first tokens; return what goes on."""
        begun: list[_Newcomers] = []
        groups = self._next_groups()
        while groups:
            group = groups.pop(0)
            try:
                begun += self._begin_group(group, said)
            except Exception as error:  # what one question does to the model must not fail those that are spoken
                if len(group) > 1:
                    groups = [*([answer] for answer in group), *groups]
                    continue
                traceback.print_exc()
                said.append(Said(group[0].key, (), self._honest(error, group[0])))
        return begun

    def _honest(self, error: Exception, answer: _Answer) -> Exception:
        if not is_out_of_memory(error):
            return error
        free_memory()
        return ModelError(
            f"memory ran out while the {answer.prompt.prompt_tokens} tokens of this question were read beside "
            f"{len(self._rows)} others: {first_line(error)}",
            code=OUT_OF_MEMORY,
        )

    def _next_groups(self) -> list[list[_Answer]]:
        groups: dict[Any, list[_Answer]] = {}
        tokens = 0
        while self._waiting and (not tokens or tokens + self._waiting[0].prompt.prompt_tokens <= _PROMPT_TOKENS):
            answer = self._waiting.pop(0)
            tokens += answer.prompt.prompt_tokens
            alone = bool(answer.ways) or not self._network.can_merge
            looks = tuple((name, tuple(value.shape)) for name, value in sorted(answer.prompt.inputs.items()))
            groups.setdefault(answer.key if alone else looks, []).append(answer)
        return list(groups.values())

    def _begin_group(self, group: list[_Answer], said: list[Said]) -> list[_Newcomers]:
        device, dtype = self._network.device, self._network.model.dtype
        inputs = {}
        for name, first in group[0].prompt.inputs.items():
            value = first if len(group) == 1 else torch.cat([answer.prompt.inputs[name] for answer in group])
            inputs[name] = value.to(device, dtype) if value.is_floating_point() else value.to(device)
        begun = self._network.begin(inputs)
        if group[0].ways:
            said.append(self._decided(begun, group[0]))
            return []
        chosen = choose(begun.logits, [answer.taste for answer in group])
        rows = []
        for row, (answer, token) in enumerate(zip(group, chosen, strict=True)):
            said.append(self._say(answer, token))
            if said[-1].answer is None:
                rows.append(row)
        tokens = torch.tensor([[chosen[row]] for row in rows], device=device)
        return [_Newcomers(begun, rows, [group[row] for row in rows], tokens)] if rows else []

    def _decided(self, begun: Begun, answer: _Answer) -> Said:
        scores = PromptScores(self._network, begun)
        choice, tokens, shares = decide(scores, answer.key, begun.logits[0], answer.ways, sorted(self._ends))
        document = {
            "text": choice,
            "confidence": shares[choice],
            "completion_tokens": tokens,
            "metadata": {"choices": shares},
        }
        return Said(answer.key, (choice, *[""] * (tokens - 1)), self._document(answer, document))

    def _regroup(self, kept: list[int], begun: list[_Newcomers]) -> None:
        """Let rows that ended go and new ones come."""
        tokens = [] if self._next is None or not kept else [self._next[kept]]
        tokens += [new.tokens for new in begun]
        self._batch.change(kept, [(new.begun, new.rows) for new in begun])
        self._rows = [self._rows[number] for number in kept]
        self._rows += [answer for new in begun for answer in new.answers]
        self._next = torch.cat(tokens) if tokens else None
