"""The next token of each answer."""

from __future__ import annotations

from collections import Counter

import pytest

from tests.tiny_language_models import require

require("torch", "transformers")

import torch  # noqa: E402
from transformers import RepetitionPenaltyLogitsProcessor  # noqa: E402

from freeroam.models.generation_sampling import Taste, choose  # noqa: E402
from freeroam.vocabulary.inference import InferenceParams  # noqa: E402

SHARES = [0.5, 0.3, 0.15, 0.05]


def drawn(taste: Taste, shares: list[float], count: int) -> Counter[int]:
    scores = torch.tensor([shares]).log()
    return Counter(choose(scores, [taste])[0] for _ in range(count))


@pytest.mark.parametrize("temperature", [None, 0.0])
def test_without_a_temperature_the_likeliest_token_comes_next(temperature: float | None) -> None:
    tastes = [Taste.of(InferenceParams(temperature=temperature, seed=seed)) for seed in range(5)]

    assert choose(torch.tensor(SHARES).log().repeat(5, 1), tastes) == [0] * 5


def test_a_temperature_of_one_draws_tokens_as_often_as_they_are_likely() -> None:
    counts = drawn(Taste.of(InferenceParams(temperature=1.0, seed=3)), SHARES, 4000)

    for token, share in enumerate(SHARES):
        assert counts[token] / 4000 == pytest.approx(share, abs=0.03)


@pytest.mark.parametrize(("top_p", "left"), [(0.01, {0}), (0.5, {0}), (0.6, {0, 1}), (0.94, {0, 1, 2})])
def test_top_p_leaves_the_likeliest_tokens_that_together_have_it(top_p: float, left: set[int]) -> None:
    counts = drawn(Taste.of(InferenceParams(temperature=1.0, top_p=top_p, seed=3)), SHARES, 800)

    assert set(counts) == left


def test_one_answer_is_drawn_alike_whatever_is_drawn_beside_it() -> None:
    # Given scores of one answer, and other answers of other tastes beside it
    torch.manual_seed(0)
    scores = torch.randn(40, 5, 50)

    def words(rows: list[int]) -> list[int]:
        tastes = {row: Taste.of(InferenceParams(temperature=0.9, top_p=0.5 + row / 10, seed=row)) for row in rows}
        return [choose(step[rows], list(tastes.values()))[rows.index(2)] for step in scores]

    # Then its tokens are the same alone and in any company
    assert words([2]) == words([0, 2, 4]) == words([4, 3, 2, 1, 0])


def test_rounding_errors_of_another_batch_change_no_drawn_token() -> None:
    torch.manual_seed(0)
    scores = torch.randn(300, 1, 1000)
    noise = torch.randn_like(scores) * 1e-6

    def words(given: torch.Tensor) -> list[int]:
        taste = Taste.of(InferenceParams(temperature=1.0, seed=1))
        return [choose(step, [taste])[0] for step in given]

    assert words(scores) == words(scores + noise)


def test_without_a_seed_two_answers_differ() -> None:
    tastes = [Taste.of(InferenceParams(temperature=1.0)) for _ in range(2)]
    scores = torch.zeros(2, 1000)

    first, second = zip(*(choose(scores, tastes) for _ in range(20)), strict=True)

    assert first != second


def test_the_repetition_penalty_is_that_of_generate() -> None:
    # Given a model whose author wishes for a penalty, and an answer that has said something
    torch.manual_seed(0)
    asked, penalty = [3, 7, 7], 1.7
    taste = Taste.of(InferenceParams(), penalty, asked)
    seen = list(asked)

    for scores in torch.randn(30, 1, 12) * 3:
        # When tokens are chosen
        (token,) = choose(scores.clone(), [taste])

        # Then they are those that transformers chooses
        expected = RepetitionPenaltyLogitsProcessor(penalty)(torch.tensor([seen]), scores.clone()).argmax()
        assert token == int(expected)
        seen.append(token)
