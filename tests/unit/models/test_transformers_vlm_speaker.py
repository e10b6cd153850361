"""Answers about pictures spoken together, by tiny models in the true architectures, without a process of their own."""

from __future__ import annotations

import asyncio
import gc
import random
import weakref
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from transformers import DynamicCache

from freeroam.models.base import Question
from freeroam.models.transformers_vlm import TransformersVLM
from freeroam.models.vlm_batch import Apart, Together
from freeroam.vocabulary.errors import InvalidInput
from freeroam.vocabulary.inference import InferenceParams
from tests.tiny_vlms import KINDS, OTHERS, SLIDING, make_vlm


def picture(seed: int, height_px: int = 60, width_px: int = 100) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 255, (height_px, width_px, 3), np.uint8)


def asked(prompt: str = "what", *frames: np.ndarray, **params) -> Question:
    params.setdefault("max_tokens", 12)
    return Question(frames, prompt, InferenceParams(**params))


@pytest.fixture(scope="module", params=[*KINDS, SLIDING])
def folder(request, tmp_path_factory) -> Path:
    return make_vlm(request.param, tmp_path_factory.mktemp("vlm") / request.param)


@pytest.fixture(scope="module")
def model(folder: Path) -> TransformersVLM:
    made = TransformersVLM(threads=1)
    asyncio.run(made.initialize(str(folder), "cpu"))
    return made


@pytest.fixture
async def llava(tmp_path: Path) -> TransformersVLM:
    made = TransformersVLM(threads=1)
    await made.initialize(str(make_vlm("llava", tmp_path / "llava")), "cpu")
    return made


def different_questions() -> list[Question]:
    """Return questions that differ in everything that a batch must not mix up."""
    return [
        asked("what", picture(1), max_tokens=30),
        asked("else", picture(2), max_tokens=25),
        asked("describe all of this please", picture(3, 40, 80), picture(4, 40, 80), max_tokens=17),
        asked("text alone", max_tokens=40),
        asked("a", picture(5, 200, 90), max_tokens=9),
        asked("x y", *(picture(6 + n, 64, 64) for n in range(3)), max_tokens=33),
        asked("what", picture(1), max_tokens=1),
    ]


def expected_of(model: TransformersVLM, question: Question) -> tuple[str, int]:
    """Return what ``generate`` of transformers says, and the tokens of the prompt."""
    loaded = model._ready
    prompt = loaded.prompts.prepare(question)
    most = question.params.max_tokens
    with torch.inference_mode():
        said = loaded.network.model.generate(**prompt.inputs, max_new_tokens=most, do_sample=False, eos_token_id=None)
    return loaded.tokenizer.decode(said[0, prompt.prompt_tokens :], skip_special_tokens=True), prompt.prompt_tokens


async def test_an_answer_is_what_generate_says(model: TransformersVLM):
    for question in different_questions():
        text, prompt_tokens = expected_of(model, question)

        (answer,) = await model.predict_batch([question])

        assert answer["text"] == text
        assert answer["prompt_tokens"] == prompt_tokens
        assert answer["completion_tokens"] == question.params.max_tokens
        assert answer["finish_reason"] == "length"


@pytest.mark.parametrize("kind", OTHERS)
async def test_other_architectures_say_together_what_generate_says_alone(tmp_path: Path, kind: str):
    other = TransformersVLM(threads=1)
    await other.initialize(str(make_vlm(kind, tmp_path / kind)), "cpu")
    await other.warm_up()
    questions = different_questions()

    together = await other.predict_batch(questions)

    assert [answer["text"] for answer in together] == [expected_of(other, question)[0] for question in questions]


async def test_the_penalty_that_the_author_wishes_is_that_of_generate(folder: Path):
    model = TransformersVLM(threads=1)
    await model.initialize(str(folder), "cpu")
    model._ready.network.model.generation_config.repetition_penalty = 1.3
    question = asked("what", picture(1), max_tokens=30)
    expected, _ = expected_of(model, question)

    (answer,) = await model.predict_batch([question])

    assert answer["text"] == expected


async def test_answers_spoken_together_are_those_spoken_alone(model: TransformersVLM):
    questions = different_questions()
    alone = [(await model.predict_batch([question]))[0] for question in questions]

    assert await model.predict_batch(questions) == alone
    assert await model.predict_batch(questions[::-1]) == alone[::-1]


async def test_alike_questions_are_read_together_and_answered_each_for_itself(model: TransformersVLM):
    questions = [asked("what", picture(seed)) for seed in range(6)]
    alone = [(await model.predict_batch([question]))[0] for question in questions]

    assert await model.predict_batch(questions) == alone
    assert len({answer["text"] for answer in alone}) > 1


@pytest.mark.parametrize("seed", range(6))
async def test_neighbours_that_come_and_go_change_no_answer(model: TransformersVLM, seed: int):
    chance = random.Random(seed)
    questions = different_questions()
    alone = [(await model.predict_batch([question]))[0] for question in questions]
    speaker = model.open_speaker()
    coming = list(range(len(questions))) * 2
    chance.shuffle(coming)
    here: dict[int, int] = {}
    texts: dict[int, str] = {}
    ended = 0
    while coming or here:
        while coming and len(here) < 6 and chance.random() < 0.5:
            key = len(coming)
            here[key] = coming.pop()
            texts[key] = ""
            speaker.join(key, questions[here[key]])
        if here and chance.random() < 0.05:
            leaving = chance.choice(list(here))
            speaker.leave(leaving)
            del here[leaving]
        for said in speaker.step() if here else ():
            texts[said.key] += "".join(said.texts)
            if said.answer is not None:
                assert said.answer == alone[here.pop(said.key)]
                assert said.answer["text"] == texts[said.key]
                ended += 1

    assert ended >= 7
    assert speaker.step() == []


async def test_a_question_joins_and_speaks_in_the_very_next_step(model: TransformersVLM):
    speaker = model.open_speaker()
    speaker.join(1, asked("first", picture(1), max_tokens=50))
    for _ in range(5):
        speaker.step()

    speaker.join(2, asked("second", picture(2, 40, 40), max_tokens=50))

    assert [said.key for said in speaker.step()] == [1, 2]


async def test_an_answer_that_left_says_nothing_more_and_holds_nothing(model: TransformersVLM):
    speaker = model.open_speaker()
    for key in (1, 2):
        speaker.join(key, asked("what", picture(key), max_tokens=50))
    speaker.step()
    held = weakref.ref(speaker._batch._cache)

    speaker.leave(1)
    assert [said.key for said in speaker.step()] == [2]
    assert len(speaker._batch) == 1
    speaker.leave(2)

    gc.collect()
    assert held() is None
    assert len(speaker._batch) == 0
    assert speaker.step() == []


async def test_an_answer_leaves_before_it_was_begun(model: TransformersVLM):
    speaker = model.open_speaker()
    speaker.join(1, asked("what", picture(1)))
    speaker.leave(1)

    assert speaker.step() == []


@pytest.mark.parametrize("choices", [["yes", "no"], ["a", "ab", "abc"], ["left", "right", "neither of the two"]])
async def test_the_choice_is_the_one_that_the_model_finds_likeliest(model: TransformersVLM, choices: list[str]):
    loaded = model._ready
    prompt = loaded.prompts.prepare(asked("which", picture(1)))
    (end,) = loaded.ends

    def mean(text: str) -> float:
        """Return the mean log probability of text and end after the prompt, in one pass without any cache."""
        tokens = loaded.tokenizer(text, add_special_tokens=False)["input_ids"]
        ids = torch.tensor([[*prompt.inputs["input_ids"][0].tolist(), *tokens, end]])
        more = {name: value for name, value in prompt.inputs.items() if name not in {"input_ids", "attention_mask"}}
        if "mm_token_type_ids" in more:
            more["mm_token_type_ids"] = torch.nn.functional.pad(more["mm_token_type_ids"], (0, len(tokens) + 1))
        with torch.inference_mode():
            scores = loaded.network.model(input_ids=ids, **more).logits[0].double().log_softmax(-1)
        places = range(prompt.prompt_tokens - 1, ids.shape[1] - 1)
        return float(np.mean([scores[place, ids[0, place + 1]] for place in places]))

    whole = np.exp([max(mean(choice), mean(f" {choice}")) for choice in choices])
    (answer,) = await model.predict_batch([asked("which", picture(1), choices=choices)])

    assert answer["text"] == choices[int(np.argmax(whole))]
    shares = [answer["metadata"]["choices"][choice] for choice in choices]
    assert shares == pytest.approx(whole / sum(whole), rel=1e-3)
    assert answer["confidence"] == max(shares)
    assert answer["finish_reason"] == "stop"


async def test_a_box_that_was_said_is_a_prediction_in_pixels_of_the_newest_frame(model: TransformersVLM):
    said = '{"bbox_2d": [0.25, 0.5, 0.75, 1.0], "label": "cat", "score": 0.6}'
    frames = (picture(1, 90, 30), picture(2, 60, 120))
    cut = {"left": 30.0, "across": 60.0} if model._ready.eye.cuts else {"left": 0.0, "across": 120.0}

    found, unsure = await model.predict_batch(
        [asked("detect cats", *frames, choices=[said], threshold=threshold) for threshold in (0.5, 0.7)]
    )

    left = cut["left"] + 0.25 * cut["across"]
    box = [left, 30.0, left + 0.5 * cut["across"], 60.0]
    assert found["predictions"] == [{"label": "cat", "confidence": 0.6, "bbox": box}]
    assert unsure["predictions"] == []


async def test_a_box_in_pixels_of_the_resized_picture_is_scaled_back(tmp_path: Path):
    qwen = TransformersVLM(threads=1)
    await qwen.initialize(str(make_vlm("qwen2_5_vl", tmp_path / "qwen")), "cpu")
    said = '{"bbox_2d": [84, 28, 168, 56], "label": "cat"}'
    question = asked("detect cats", picture(1, 120, 360), choices=[said])
    grid = qwen._ready.prompts.prepare(question).inputs["image_grid_thw"][0].tolist()

    (answer,) = await qwen.predict_batch([question])

    height_px, width_px = grid[1] * 14, grid[2] * 14
    assert (height_px, width_px) != (120, 360)
    (cat,) = answer["predictions"]
    assert cat["bbox"] == pytest.approx(
        [84 / width_px * 360, 28 / height_px * 120, 168 / width_px * 360, 56 / height_px * 120], abs=0.1
    )


async def test_choices_are_decided_beside_answers_that_are_spoken(model: TransformersVLM):
    questions = [asked("what", picture(1)), asked("which", picture(1), choices=["yes", "no"]), asked("text alone")]
    alone = [(await model.predict_batch([question]))[0] for question in questions]

    assert await model.predict_batch(questions) == alone


async def test_a_seed_repeats_a_drawn_answer_whoever_speaks_beside_it(model: TransformersVLM):
    drawn = asked("what", picture(1), temperature=1.5, top_p=0.9, seed=7, max_tokens=20)
    (alone,) = await model.predict_batch([drawn])

    beside = await model.predict_batch([asked("else", picture(2), temperature=1.0), drawn, asked("text")])
    (other,) = await model.predict_batch([asked("what", picture(1), temperature=1.5, seed=8, max_tokens=20)])

    assert beside[1] == alone
    assert other != alone


async def test_next_to_no_mass_leaves_the_likeliest(model: TransformersVLM):
    greedy, drawn = await model.predict_batch(
        [asked("what", picture(1)), asked("what", picture(1), temperature=2.0, top_p=1e-6, seed=1)]
    )

    assert drawn == greedy


async def test_a_stop_text_ends_an_answer(model: TransformersVLM):
    (whole,) = await model.predict_batch([asked("what", picture(1), max_tokens=40)])
    stop = whole["text"][4:6]

    (answer,) = await model.predict_batch([asked("what", picture(1), max_tokens=40, stop=[stop])])

    assert answer["text"] == whole["text"][: whole["text"].find(stop)]
    assert answer["finish_reason"] == "stop"


async def test_the_end_of_an_answer_is_not_shown(llava: TransformersVLM):
    prompt = llava._ready.prompts.prepare(asked("what", picture(1)))
    with torch.inference_mode():
        token = int(llava._ready.network.begin(prompt.inputs).logits.argmax())
    speaker = llava.open_speaker()
    speaker._ends = frozenset({token})
    speaker.join(1, asked("what", picture(1)))

    (said,) = speaker.step()

    assert said.texts == ("",)
    assert (said.answer["text"], said.answer["finish_reason"], said.answer["completion_tokens"]) == ("", "stop", 1)


async def test_a_conversation_is_put_into_the_template_and_pictures_belong_to_its_last_question(model: TransformersVLM):
    conversation = [
        {"role": "system", "content": "Be short."},
        {"role": "user", "content": "hello"},
        {"role": "assistant", "content": "hi"},
        {"role": "user", "content": "what is it"},
    ]
    question = asked("not read", picture(1), messages=conversation)

    text = model._ready.prompts._text(question)

    image = model._ready.prompts._image_token
    assert "not read" not in text
    assert text.count(image) == 1
    assert text.index("Be short.") < text.index("hello") < text.index("hi") < text.index(image) < text.index("what is")
    (answer,) = await model.predict_batch([question])
    assert answer["completion_tokens"] == 12


async def test_words_that_stand_for_pictures_are_only_words_in_a_question(model: TransformersVLM):
    image = model._ready.prompts._image_token
    for frames in ((), (picture(1),)):
        plain, odd = await model.predict_batch([asked("is   it", *frames), asked(f"is {image} it", *frames)])

        assert odd == plain


@pytest.mark.parametrize("height_px", [1, 3])
async def test_a_picture_as_high_as_there_are_channels_is_seen_as_it_is(llava: TransformersVLM, height_px: int):
    thin, square = (np.full((high, 56, 3), (250, 120, 10), np.uint8) for high in (height_px, 56))

    seen, expected = (llava._ready.prompts.prepare(asked("what", one)).inputs["pixel_values"] for one in (thin, square))

    assert torch.equal(seen, expected)


async def test_a_question_longer_than_the_model_reads_is_refused_alone(folder: Path):
    model = TransformersVLM(threads=1, context=100)
    await model.initialize(str(folder), "cpu")

    good, bad = await model.predict_batch([asked("short"), asked("long " * 100)])

    assert isinstance(bad, InvalidInput)
    assert "100" in bad.message
    assert good["completion_tokens"] == 12


@pytest.mark.parametrize(("asked_for", "ceiling", "most"), [(None, 3, 3), (5, 3, 3), (2, 3, 2), (None, 4096, 7)])
async def test_the_least_of_what_is_asked_the_models_own_bound_and_the_ceiling_holds(
    tmp_path: Path, asked_for: int | None, ceiling: int, most: int
):
    model = TransformersVLM(threads=1, max_tokens=7)
    await model.initialize(str(make_vlm("llava", tmp_path / "llava")), "cpu")

    (answer,) = await model.predict_batch([replace(asked("short", max_tokens=asked_for), ceiling=ceiling)])

    assert (answer["completion_tokens"], answer["finish_reason"]) == (most, "length")


async def test_an_answer_ends_where_the_model_reads_no_further(folder: Path):
    model = TransformersVLM(threads=1, context=60)
    await model.initialize(str(folder), "cpu")

    (answer,) = await model.predict_batch([asked("short", max_tokens=1000)])

    assert answer["prompt_tokens"] + answer["completion_tokens"] == 60
    assert answer["finish_reason"] == "length"


async def test_a_question_that_breaks_the_network_fails_alone(llava: TransformersVLM):
    questions = [asked("what", picture(seed)) for seed in range(3)]
    alone = [(await llava.predict_batch([question]))[0] for question in questions]
    speaker = llava.open_speaker()
    for key, question in enumerate(questions):
        speaker.join(key, question)
    broken = speaker._waiting[1].prompt.inputs
    broken["pixel_values"] = broken["pixel_values"][:, :2]
    broken_too = speaker._waiting[2].prompt.inputs
    broken_too["input_ids"] = torch.full_like(broken_too["input_ids"], 10**6)

    answers = {}
    while len(answers) < 3:
        answers |= {said.key: said.answer for said in speaker.step() if said.answer is not None}

    assert answers[0] == alone[0]
    assert isinstance(answers[1], Exception)
    assert isinstance(answers[2], Exception)


async def test_a_model_whose_caches_cannot_be_merged_speaks_the_same(
    model: TransformersVLM, monkeypatch: pytest.MonkeyPatch
):
    questions = different_questions()
    together = await model.predict_batch(questions)
    assert isinstance(model.open_speaker()._batch, Together)

    monkeypatch.setattr(model._ready.network, "can_merge", False)

    assert isinstance(model.open_speaker()._batch, Apart)
    assert await model.predict_batch(questions) == together


async def test_layers_that_look_back_a_little_are_among_those_tried(tmp_path: Path):
    model = TransformersVLM(threads=1)
    await model.initialize(str(make_vlm(SLIDING, tmp_path / "sliding")), "cpu")

    layers = DynamicCache(config=model._ready.network.model.config).layers

    assert [layer.is_sliding for layer in layers] == [False, True]


async def test_a_model_without_a_template_is_asked_in_plain_turns(tmp_path: Path):
    model = TransformersVLM(threads=1)
    await model.initialize(str(make_vlm("llava", tmp_path / "llava", with_chat_template=False)), "cpu")

    text = model._ready.prompts._text(asked("what", picture(1), picture(2)))

    assert text == "USER: <image>\n<image>\nwhat\nASSISTANT:"
    assert model.get_model_info()["chat_template"] is False
    (answer,) = await model.predict_batch([asked("what", picture(1), picture(2))])
    assert answer["completion_tokens"] == 12


async def test_health_and_warmth_leave_what_is_spoken_alone(model: TransformersVLM):
    (alone,) = await model.predict_batch([asked("what", picture(1))])
    speaker = model.open_speaker()
    speaker.join(1, asked("what", picture(1)))
    answer = None
    while answer is None:
        await model.check_health()
        await model.warm_up()
        answer = speaker.step()[0].answer

    assert answer == alone


@pytest.mark.parametrize("kind", ["llava"])
async def test_broken_weights_are_noticed(tmp_path: Path, kind: str):
    model = TransformersVLM(threads=1)
    await model.initialize(str(make_vlm(kind, tmp_path / kind)), "cpu")
    model._ready.network.model.get_output_embeddings().weight.fill_(float("nan"))

    with pytest.raises(Exception, match="no numbers"):
        await model.check_health()


async def test_closing_frees_the_weights(folder: Path):
    model = TransformersVLM(threads=1)
    await model.initialize(str(folder), "cpu")
    weights = weakref.ref(model._ready.network.model)

    await model.close()

    gc.collect()
    assert weights() is None
