"""Speaks the answers of a vision-language model together: they join and leave between two steps of the network."""

from __future__ import annotations

import traceback
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch

from freeroam.models.base import Question, Said, Speaker
from freeroam.models.vlm_batch import Apart, Begun, Network, Together
from freeroam.models.vlm_boxes import read_boxes
from freeroam.models.vlm_choosing import Judge, Taste, choose
from freeroam.models.vlm_prompts import Prompt
from freeroam.models.vlm_text import SpokenText

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
    """

    def __init__(
        self,
        network: Network,
        prepare: Callable[[Question], Prompt],
        tokenizer: Any,
        *,
        ends: Sequence[int],
        max_tokens: int,
        context: int,
    ) -> None:
        self._network = network
        self._prepare = prepare
        self._tokenizer = tokenizer
        self._ends = frozenset(ends)
        self._judge = Judge(network, tokenizer, list(ends))
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
        most = min(params.max_tokens or self._max_tokens, self._context - prompt.prompt_tokens)
        text = SpokenText(self._tokenizer, params.stop or ())
        self._waiting.append(_Answer(key, question, prompt, text, Taste.of(params), most))

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
            assert self._next is not None
            logits = self._batch.step(self._next)
            said += self._spoken(logits)
        begun = self._begin(said)
        self._regroup([number for number, row in enumerate(self._rows) if row is not None], begun)
        return said

    def _empty_batch(self) -> Together | Apart:
        return Together(self._network) if self._network.can_merge else Apart(self._network)

    def _spoken(self, logits: torch.Tensor) -> list[Said]:
        """Choose and say the next token of every row; rows that end become None."""
        rows = [row for row in self._rows if row is not None]
        chosen = choose(logits, [row.taste for row in rows])
        self._next = chosen[:, None]
        said = []
        for number, (answer, token) in enumerate(zip(rows, chosen.tolist(), strict=True)):
            said.append(self._say(answer, token))
            if said[-1].answer is not None:
                self._rows[number] = None
        return said

    def _say(self, answer: _Answer, token: int) -> Said:
        if token in self._ends:
            return self._ended(answer, (), "stop")
        answer.spoken += 1
        piece = answer.text.add(token)
        if answer.text.has_stopped:
            return self._ended(answer, (piece,), "stop")
        if answer.spoken >= answer.most:
            return self._ended(answer, (piece,), "length")
        answer.pieces.append(piece)
        return Said(answer.key, (piece,))

    def _ended(self, answer: _Answer, pieces: tuple[str, ...], reason: str) -> Said:
        rest = answer.text.end()
        if rest:
            pieces = (*pieces[:-1], (pieces[-1] if pieces else "") + rest)
        text = "".join([*answer.pieces, *pieces])
        return Said(answer.key, pieces, self._document(answer, {"text": text, "finish_reason": reason}))

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
        begun = []
        for group in self._next_groups():
            try:
                begun += self._begin_group(group, said)
            except Exception as error:  # what one question does to the model must not fail those that are spoken
                if len(group) == 1:
                    traceback.print_exc()
                    said.append(Said(group[0].key, (), error))
                    continue
                for answer in group:
                    try:
                        begun += self._begin_group([answer], said)
                    except Exception as own_error:
                        traceback.print_exc()
                        said.append(Said(answer.key, (), own_error))
        return begun

    def _next_groups(self) -> list[list[_Answer]]:
        groups: dict[Any, list[_Answer]] = {}
        tokens = 0
        while self._waiting and (not tokens or tokens + self._waiting[0].prompt.prompt_tokens <= _PROMPT_TOKENS):
            answer = self._waiting.pop(0)
            tokens += answer.prompt.prompt_tokens
            alone = bool(answer.question.params.choices) or not self._network.can_merge
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
        if group[0].question.params.choices:
            said.append(self._decided(begun, group[0]))
            return []
        chosen = choose(begun.logits, [answer.taste for answer in group])
        rows = []
        for row, (answer, token) in enumerate(zip(group, chosen.tolist(), strict=True)):
            said.append(self._say(answer, token))
            if said[-1].answer is None:
                rows.append(row)
        return [_Newcomers(begun, rows, [group[row] for row in rows], chosen[rows, None])] if rows else []

    def _decided(self, begun: Begun, answer: _Answer) -> Said:
        choices = answer.question.params.choices or []
        decided = self._judge.decide(begun, choices)
        return Said(answer.key, (decided["text"],), self._document(answer, decided))

    def _regroup(self, kept: list[int], begun: list[_Newcomers]) -> None:
        """Let rows that ended go and new ones come."""
        tokens = [] if self._next is None or not kept else [self._next[kept]]
        tokens += [new.tokens for new in begun]
        self._batch.change(kept, [(new.begun, new.rows) for new in begun])
        self._rows = [self._rows[number] for number in kept]
        self._rows += [answer for new in begun for answer in new.answers]
        self._next = torch.cat(tokens) if tokens else None
