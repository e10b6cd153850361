"""Answers spoken together by tiny language models in the true architectures, without a process of their own."""

from __future__ import annotations

import asyncio
import gc
import random
import weakref
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from freeroam.models.base import Question
from freeroam.vocabulary.errors import FreeroamError, InvalidInput, ModelError
from freeroam.vocabulary.inference import InferenceParams
from tests.tiny_language_models import CONTEXT, KINDS, SHARING, make_language_model, require

require("torch", "transformers")

import torch  # noqa: E402

from freeroam.models.generation import StepLoop  # noqa: E402
from freeroam.models.generation_rows import SharedRows  # noqa: E402
from freeroam.models.transformers_text import TransformersText  # noqa: E402

PROMPTS = ("hi", "the quick brown fox jumps over the lazy dog and a camera", "\u65e5\u672c", "yes " * 20, "a red car")


def loaded(folder: Path, **options: Any) -> TransformersText:
    model = TransformersText(threads=1, **options)
    asyncio.run(model.initialize(str(folder), "cpu"))
    return model


@pytest.fixture(scope="module", params=KINDS)
def any_model(request, tmp_path_factory) -> TransformersText:
    return loaded(make_language_model(request.param, tmp_path_factory.mktemp("text") / request.param))


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    return make_language_model("llama", tmp_path_factory.mktemp("text") / "llama")


@pytest.fixture(scope="module")
def model(folder: Path) -> TransformersText:
    return loaded(folder)


def asked(prompt: str = "hi", **params: Any) -> Question:
    params.setdefault("max_tokens", 12)
    return Question((), prompt, InferenceParams(**params))


def tokens_of(model: TransformersText, question: Question) -> list[int]:
    return list(model._ready.prompts.prepare(question).tokens)


def generated(model: TransformersText, question: Question) -> list[int]:
    """Return what transformers' own ``generate`` says, prompt by prompt."""
    prompt = torch.tensor([tokens_of(model, question)])
    whole = model._ready.decoder.model.generate(
        input_ids=prompt,
        attention_mask=torch.ones_like(prompt),
        max_new_tokens=question.params.max_tokens,
        do_sample=False,
        pad_token_id=0,
    )
    return whole[0, prompt.shape[1] :].tolist()


def text_of(model: TransformersText, tokens: list[int]) -> str:
    return model._ready.tokenizer.decode(tokens, skip_special_tokens=True, clean_up_tokenization_spaces=False)


class Talk:
    """A speaker, and what its answers have said."""

    def __init__(self, model: TransformersText) -> None:
        self.speaker = model.open_speaker()
        assert isinstance(self.speaker, StepLoop)
        self.texts: dict[int, list[str]] = {}
        self.answers: dict[int, Any] = {}

    def join(self, key: int, question: Question) -> None:
        self.speaker.join(key, question)
        self.texts[key] = []

    def leave(self, key: int) -> None:
        self.speaker.leave(key)
        self.answers[key] = None

    def step(self) -> set[int]:
        """Make a step and return the answers that gained something in it."""
        said = self.speaker.step()
        keys = [one.key for one in said]
        assert len(keys) == len(set(keys))
        for one in said:
            self.texts[one.key] += one.texts
            if one.answer is not None:
                self.answers[one.key] = one.answer
        return set(keys)

    def run(self) -> None:
        for _ in range(2000):
            if len(self.answers) == len(self.texts):
                return
            self.step()
        raise AssertionError("the answers do not end")


@contextmanager
def counted_calls(model: TransformersText) -> Iterator[list[int]]:
    """Collect the number of answers in each forward call."""
    calls: list[int] = []

    def note(_module: Any, _args: Any, kwargs: dict[str, Any]) -> None:
        calls.append(int(kwargs["input_ids"].shape[0]))

    hook = model._ready.decoder.model.register_forward_pre_hook(note, with_kwargs=True)
    try:
        yield calls
    finally:
        hook.remove()


def test_architectures_that_can_share_a_forward_call_do(any_model: TransformersText, request) -> None:
    kind = request.node.callspec.params["any_model"]

    assert any_model.get_model_info()["decodes_together"] == (kind in SHARING)


def test_tokens_are_those_of_generate_whoever_comes_and_goes(any_model: TransformersText) -> None:
    # Given questions of different lengths, and the tokens that each gets alone
    questions = {key: asked(PROMPTS[key % 5], max_tokens=[30, 7, 19, 3, 25, 12, 40][key % 7]) for key in range(12)}
    alone = {key: generated(any_model, question) for key, question in questions.items()}
    talk = Talk(any_model)
    chance = random.Random(1)

    # When they join one after the other, and neighbours come and leave in the middle of their answers
    waiting, visitors = list(questions), []
    while waiting or any(key not in talk.answers for key in questions):
        if waiting and chance.random() < 0.4:
            key = waiting.pop(0)
            talk.join(key, questions[key])
        if chance.random() < 0.3:
            visitors.append(100 + len(talk.texts))
            talk.join(visitors[-1], asked("visitor " * chance.randint(1, 12), max_tokens=50))
        if visitors and chance.random() < 0.3:
            talk.leave(visitors.pop(chance.randrange(len(visitors))))
        visitors = [key for key in visitors if key not in talk.answers]
        talk.step()

    # Then each got just those
    for key, tokens in alone.items():
        answer = talk.answers[key]
        assert "".join(talk.texts[key]) == text_of(any_model, tokens)
        assert len(talk.texts[key]) == answer["completion_tokens"] == len(tokens)
        assert answer["prompt_tokens"] == len(tokens_of(any_model, questions[key]))
        assert answer["finish_reason"] == "length"


def test_a_late_question_speaks_within_two_steps_and_nobody_waits_for_the_longest(
    any_model: TransformersText,
) -> None:
    # Given three long answers in their midst
    talk = Talk(any_model)
    for key in range(3):
        talk.join(key, asked(PROMPTS[key], max_tokens=60))
    for _ in range(6):
        talk.step()

    # When a short question comes
    talk.join(9, asked("late", max_tokens=3))
    heard = [talk.step() for _ in range(4)]

    # Then it speaks within two steps, the others go on in each of them, and it is over long before they are
    assert any(9 in keys for keys in heard[:2])
    assert all({0, 1, 2} <= keys for keys in heard)
    assert set(talk.answers) == {9}


def test_a_step_costs_one_forward_call_for_all(model: TransformersText) -> None:
    talk = Talk(model)
    for key in range(8):
        talk.join(key, asked(PROMPTS[key % 5], max_tokens=20))
    with counted_calls(model) as calls:
        talk.step()
        assert calls == [1]
        for _ in range(5):
            talk.step()
            assert calls.pop() == 8
        assert calls == [1]


def test_a_long_prompt_is_read_in_parts_between_the_steps_of_others(folder: Path) -> None:
    # Given an answer in its midst, of a model that reads 16 tokens a step
    model = loaded(folder, read_tokens=16)
    talk = Talk(model)
    talk.join(0, asked(max_tokens=100))
    talk.step()

    # When a long prompt comes
    question = asked("the quick brown fox " * 20, max_tokens=10)
    length = len(tokens_of(model, question))
    assert length > 64
    talk.join(1, question)
    steps = 0
    while not talk.texts[1]:
        assert 0 in talk.step()
        steps += 1

    # Then the first answer went on in every step, and the second one is what it would be alone
    assert steps == -(-length // 16)
    talk.run()
    assert "".join(talk.texts[1]) == text_of(model, generated(model, question))


def test_an_answer_that_leaves_frees_its_memory_before_the_next_step(any_model: TransformersText) -> None:
    # Given answers, one of them much longer than the others
    talk = Talk(any_model)
    for key, prompt in enumerate(["x" * 150, "hi", "ho"]):
        talk.join(key, asked(prompt, max_tokens=90))
    for _ in range(3):
        talk.step()
    with_all = talk.speaker.memory_bytes

    # When they leave one after the other
    talk.leave(0)
    with_two = talk.speaker.memory_bytes
    talk.leave(1)
    talk.leave(2)

    # Then what they held is free at once
    assert 0 < with_two < with_all
    assert talk.speaker.memory_bytes == 0
    assert talk.step() == set()


def test_a_question_may_leave_before_it_was_read(model: TransformersText) -> None:
    talk = Talk(model)
    talk.join(0, asked())
    talk.leave(0)

    assert talk.step() == set()
    assert talk.speaker.memory_bytes == 0
    talk.leave(0)


def test_a_pattern_of_coming_and_going_leaves_nothing_behind(any_model: TransformersText) -> None:
    chance = random.Random(5)
    talk = Talk(any_model)
    here: list[int] = []
    for key in range(60):
        talk.join(key, asked(chance.choice(PROMPTS), max_tokens=chance.randint(1, 9)))
        here.append(key)
        if chance.random() < 0.5:
            talk.step()
        if chance.random() < 0.5:
            talk.leave(here.pop(chance.randrange(len(here))))
        here = [one for one in here if one not in talk.answers]
    talk.run()

    assert talk.speaker.memory_bytes == 0


def stopped(model: TransformersText, question: Question) -> tuple[str, dict[str, Any]]:
    talk = Talk(model)
    talk.join(0, question)
    talk.run()
    assert len(talk.texts[0]) == talk.answers[0]["completion_tokens"]
    return "".join(talk.texts[0]), talk.answers[0]


def test_stop_texts_end_an_answer_and_are_not_given_out(model: TransformersText) -> None:
    whole, _ = stopped(model, asked(max_tokens=20))
    cut = whole.index(" quick")

    text, answer = stopped(model, asked(max_tokens=20, stop=["never said", " quick", whole[cut + 2 : cut + 9]]))

    assert text == whole[:cut]
    assert answer["finish_reason"] == "stop"
    assert answer["completion_tokens"] < 20


def test_the_beginning_of_a_stop_text_is_given_out_when_the_answer_ends_without_it(model: TransformersText) -> None:
    whole, _ = stopped(model, asked(max_tokens=9))

    text, answer = stopped(model, asked(max_tokens=9, stop=[whole[-2:] + "never said"]))

    assert text == whole
    assert answer["finish_reason"] == "length"


def test_the_token_that_ends_an_answer_is_counted_and_not_shown(folder: Path, tmp_path: Path) -> None:
    # Given a model that ends with a token which it does say
    running_on = loaded(folder)
    tokens = generated(running_on, asked(max_tokens=30))
    end = tokens[10]
    first = tokens.index(end)
    model = loaded(folder)
    manner = replace(model._ready.manner, ends=frozenset({end}))
    model._loaded = replace(model._ready, manner=manner)

    text, answer = stopped(model, asked(max_tokens=30))

    assert text == text_of(model, tokens[:first])
    assert answer["completion_tokens"] == first + 1
    assert answer["finish_reason"] == "stop"


@pytest.mark.parametrize("most", [1, 2, 5])
def test_an_answer_has_no_more_tokens_than_asked_for(model: TransformersText, most: int) -> None:
    _, answer = stopped(model, asked(max_tokens=most))

    assert (answer["completion_tokens"], answer["finish_reason"]) == (most, "length")


@pytest.mark.parametrize(("asked_for", "ceiling", "most"), [(None, 3, 3), (5, 3, 3), (2, 3, 2), (None, 4096, 7)])
def test_the_least_of_what_is_asked_the_models_own_bound_and_the_ceiling_holds(
    folder: Path, asked_for: int | None, ceiling: int, most: int
) -> None:
    model = loaded(folder, max_tokens=7)

    _, answer = stopped(model, replace(asked(max_tokens=asked_for), ceiling=ceiling))

    assert (answer["completion_tokens"], answer["finish_reason"]) == (most, "length")


def test_an_answer_ends_where_the_context_does(model: TransformersText) -> None:
    question = asked("x" * 100, max_tokens=4000)

    _, answer = stopped(model, question)

    assert answer["prompt_tokens"] + answer["completion_tokens"] == CONTEXT
    assert answer["finish_reason"] == "length"


@pytest.mark.parametrize(
    ("question", "words"),
    [
        (asked("x" * (CONTEXT + 50)), f"the model reads {CONTEXT}"),
        (asked("x" * 200, choices=["y" * 60, "z"]), f"the model reads {CONTEXT}"),
        (asked("", chat=False), "empty"),
        (asked(choices=["yes", ""]), "choices"),
        (Question((np.zeros((8, 8, 3), np.uint8),), "what", InferenceParams()), "text only"),
    ],
)
def test_a_question_that_cannot_be_put_is_refused_and_costs_nobody_else(
    model: TransformersText, question: Question, words: str
) -> None:
    talk = Talk(model)
    talk.join(0, asked())

    with pytest.raises(InvalidInput, match=words):
        talk.speaker.join(1, question)

    talk.run()
    assert talk.answers[0]["completion_tokens"] == 12


def test_the_same_seed_says_the_same_in_any_company(any_model: TransformersText) -> None:
    # Given an answer drawn with a seed, alone
    question = asked("tell", temperature=0.8, top_p=0.9, seed=11, max_tokens=25)
    alone, _ = stopped(any_model, question)

    # When it is drawn among others that come and go
    talk = Talk(any_model)
    talk.join(1, asked("other " * 9, temperature=1.5, seed=1, max_tokens=40))
    talk.step()
    talk.join(2, asked("more", max_tokens=4))
    talk.join(0, question)
    talk.join(3, replace(question, params=question.params.model_copy(update={"seed": 12})))
    talk.run()

    # Then it is the same, and another seed says something else
    assert "".join(talk.texts[0]) == alone
    assert "".join(talk.texts[3]) != alone


CHOICES = ["yes", "no", "a red car at the gate", "maybe", "yes yes"]


def scored(model: TransformersText, question: Question, choice: str) -> float:
    """Return a choice's mean log probability the long way: one plain forward call a spelling."""
    lm, tokenizer = model._ready.decoder.model, model._ready.tokenizer
    prompt = tokens_of(model, question)
    best = -float("inf")
    for text in (choice, f" {choice}"):
        way = tokenizer(text, add_special_tokens=False)["input_ids"]
        with torch.inference_mode():
            scores = lm(input_ids=torch.tensor([prompt + way])).logits[0].double().log_softmax(-1)
        said = [scores[len(prompt) - 1 + place, token] for place, token in enumerate(way)]
        ends = sorted(model._ready.manner.ends)
        if ends and question.params.chat is not False:
            said.append(scores[-1, ends].logsumexp(-1))
        best = max(best, float(torch.stack(said).mean()))
    return best


@pytest.mark.parametrize("prompt", PROMPTS)
@pytest.mark.parametrize("chat", [None, False])
@pytest.mark.parametrize("end", [None, "<|im_end|>"])
@pytest.mark.parametrize("kind", ["llama", "gemma3", "gpt2", "mamba"])
def test_the_choice_is_the_one_that_the_model_scores_best(
    kind: str, end: str | None, chat: bool | None, prompt: str, model_of: Callable[..., TransformersText]
) -> None:
    model = model_of(kind, end)
    question = asked(prompt, choices=CHOICES, chat=chat)
    scores = {choice: scored(model, question, choice) for choice in CHOICES}

    text, answer = stopped(model, question)

    assert text == answer["text"] == max(scores, key=scores.__getitem__)
    shares = torch.tensor(list(scores.values()), dtype=torch.float64).softmax(0).tolist()
    assert answer["metadata"]["choices"] == pytest.approx(dict(zip(CHOICES, shares, strict=True)), abs=1e-4)
    assert answer["confidence"] == answer["metadata"]["choices"][text]
    assert answer["finish_reason"] == "stop"


@pytest.fixture(scope="module")
def model_of(tmp_path_factory) -> Callable[..., TransformersText]:
    made: dict[Any, TransformersText] = {}

    def make(kind: str, end: str | None) -> TransformersText:
        if (kind, end) not in made:
            made[kind, end] = loaded(make_language_model(kind, tmp_path_factory.mktemp("text") / kind, end=end))
        return made[kind, end]

    return make


def test_choices_are_scored_in_one_call_and_leave_the_others_as_they_are(model: TransformersText) -> None:
    # Given an answer in its midst
    expected = generated(model, asked("hi", max_tokens=12))
    talk = Talk(model)
    talk.join(0, asked("hi", max_tokens=12))
    talk.step()

    # When choices are scored beside it
    with counted_calls(model) as calls:
        talk.join(1, asked("which", choices=CHOICES))
        talk.step()

    # Then that took one call besides those that read the prompt and spoke, and the other answer is what it would be
    assert len(calls) == 3
    assert 1 in talk.answers
    talk.run()
    assert "".join(talk.texts[0]) == text_of(model, expected)


def test_many_long_choices_are_scored_in_bounded_parts(model: TransformersText) -> None:
    choices = [f"{number} " + "the quick brown " * 12 for number in range(30)]
    question = asked("hi", choices=choices)
    scores = {choice: scored(model, question, choice) for choice in choices}

    text, _ = stopped(model, question)

    assert text == max(scores, key=scores.__getitem__)


class TroubledRows(SharedRows):
    """Rows that cannot read the prompt of answer 1."""

    def __init__(self, model: TransformersText, error: Exception) -> None:
        super().__init__(model._ready.decoder, model._ready.manner.context)
        self._error = error

    def read(self, parts: Mapping[int, Sequence[int]]) -> dict[int, torch.Tensor]:
        if 1 in parts:
            raise self._error
        return super().read(parts)


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB."), "out_of_memory"),
        (
            RuntimeError("[enforce fail at alloc_cpu.cpp:118] DefaultCPUAllocator: can't allocate memory"),
            "out_of_memory",
        ),
        (MemoryError(), "out_of_memory"),
        (ValueError("a shape that cannot be"), None),
    ],
)
def test_trouble_with_one_prompt_costs_that_one_only(model: TransformersText, error: Exception, code: str) -> None:
    expected = generated(model, asked("hi"))
    ready = model._ready
    speaker = StepLoop(TroubledRows(model, error), ready.prompts.prepare, ready.tokenizer, ready.manner)
    answers: dict[int, Any] = {}
    texts: list[str] = []
    speaker.join(0, asked("hi"))
    speaker.step()
    speaker.join(1, asked("trouble"))
    speaker.join(2, asked("hi"))
    while len(answers) < 3:
        for said in speaker.step():
            texts += said.texts
            if said.answer is not None:
                answers[said.key] = said.answer

    assert isinstance(answers[1], ModelError if code else ValueError)
    assert not isinstance(answers[1], FreeroamError) or answers[1].code == code
    assert [answers[key]["completion_tokens"] for key in (0, 2)] == [len(expected)] * 2
    assert speaker.memory_bytes == 0


def test_predict_answers_a_plain_question(model: TransformersText) -> None:
    answer = asyncio.run(model.predict([], "hi"))

    assert answer["text"].startswith(text_of(model, generated(model, asked("hi", max_tokens=5)))[:3])


def test_a_batch_tells_each_question_what_became_of_it(model: TransformersText) -> None:
    answers = asyncio.run(model.predict_batch([asked("hi"), asked("x" * 999), asked("ho")]))

    assert isinstance(answers[1], InvalidInput)
    assert [isinstance(answer, dict) for answer in answers] == [True, False, True]


def test_warming_up_and_the_check_of_health_pass(any_model: TransformersText) -> None:
    asyncio.run(any_model.warm_up())
    asyncio.run(any_model.check_health())

    assert any_model.open_speaker().memory_bytes == 0


def test_broken_weights_are_found_by_the_check_of_health(folder: Path) -> None:
    model = loaded(folder)
    with torch.no_grad():
        model._ready.decoder.model.get_input_embeddings().weight.fill_(float("nan"))

    with pytest.raises(ModelError, match="no numbers"):
        asyncio.run(model.check_health())
    answers = asyncio.run(model.predict_batch([asked(choices=["yes", "no"])]))
    assert isinstance(answers[0], ModelError)


def test_closing_frees_the_weights(folder: Path) -> None:
    model = loaded(folder)
    weights = weakref.ref(model._ready.decoder.model)

    asyncio.run(model.close())
    asyncio.run(model.close())
    gc.collect()

    assert weights() is None


@pytest.mark.parametrize(
    "prompts",
    [
        ["same words", "same words", "same words"],
        ["the quick brown fox " * 4 + end for end in ("", "a", "camera", "red car at the gate")],
        ["x", "the quick brown fox", "\u65e5\u672c"],
        ["x" * 90, "y" * 90, "z" * 90],
    ],
)
@pytest.mark.parametrize("chat", [None, False])
def test_what_prompts_that_come_together_begin_with_is_read_once(
    any_model: TransformersText, prompts: list[str], chat: bool | None
) -> None:
    questions = [asked(prompt, chat=chat, max_tokens=9) for prompt in prompts]

    answers = asyncio.run(any_model.predict_batch(questions))

    assert [answer["text"] for answer in answers] == [
        asyncio.run(any_model.predict_batch([question]))[0]["text"] for question in questions
    ]


@contextmanager
def failing_calls(model: TransformersText, error: Exception, fails: Callable[[torch.Tensor], bool]) -> Iterator[None]:
    """Let the forward calls fail whose tokens ``[n, t]`` are such."""

    def fail(_module: Any, _args: Any, kwargs: dict[str, Any]) -> None:
        if fails(kwargs["input_ids"]):
            raise error

    hook = model._ready.decoder.model.register_forward_pre_hook(fail, with_kwargs=True)
    try:
        yield
    finally:
        hook.remove()


def test_when_memory_runs_out_the_longest_answer_ends_and_the_others_go_on(model: TransformersText) -> None:
    # Given three answers, the second of them the longest
    questions = {0: asked("hi", max_tokens=20), 1: asked("x" * 90, max_tokens=60), 2: asked("a camera", max_tokens=30)}
    expected = {key: text_of(model, generated(model, questions[key])) for key in (0, 2)}
    talk = Talk(model)
    for key, question in questions.items():
        talk.join(key, question)
    for _ in range(5):
        talk.step()

    # When there is no memory for a step of all three
    with failing_calls(model, torch.OutOfMemoryError("CUDA out of memory"), lambda tokens: tokens.shape == (3, 1)):
        talk.run()

    # Then the longest one ended with that reason, and the others are what they would be
    assert isinstance(talk.answers[1], ModelError)
    assert talk.answers[1].code == "out_of_memory"
    assert {key: "".join(talk.texts[key]) for key in expected} == expected
    assert talk.speaker.memory_bytes == 0


def test_prompts_that_cannot_be_read_together_are_read_alone(model: TransformersText) -> None:
    # Given prompts of which one cannot be read
    questions = [asked("hi"), asked("y" * 70), asked("a camera")]
    expected = [text_of(model, generated(model, question)) for question in questions]
    bad = set(tokens_of(model, asked("y"))) - set(tokens_of(model, asked("hi")))

    # When they come together
    with failing_calls(
        model, ValueError("no"), lambda tokens: any(token in bad for token in tokens.flatten().tolist())
    ):
        answers = asyncio.run(model.predict_batch(questions))

    # Then that one fails, and the others are what they would be
    assert isinstance(answers[1], ValueError)
    assert [answers[0]["text"], answers[2]["text"]] == [expected[0], expected[2]]


def test_another_failure_of_a_step_is_told_to_the_caller_who_can_start_anew(model: TransformersText) -> None:
    talk = Talk(model)
    talk.join(0, asked())
    talk.step()

    with failing_calls(model, RuntimeError("CUDA error"), lambda _: True), pytest.raises(RuntimeError, match="CUDA"):
        talk.step()
    talk.leave(0)

    assert talk.speaker.memory_bytes == 0
    talk.join(1, asked())
    talk.run()
    assert talk.answers[1]["completion_tokens"] == 12
