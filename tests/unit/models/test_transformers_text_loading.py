"""From a path and options to a language model, and from a question to its tokens; what is wrong is said plainly."""

from __future__ import annotations

import asyncio
import gc
import json
import shutil
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest

from freeroam.models.base import Question
from freeroam.models.loading import load_model
from freeroam.vocabulary.errors import ConfigurationError, FreeroamError, InvalidInput, ModelError
from freeroam.vocabulary.inference import InferenceParams
from tests.tiny_language_models import CONTEXT, byte_tokenizer, make_language_model, piece_tokenizer, require

require("torch", "transformers", "gguf")

import torch  # noqa: E402
import transformers  # noqa: E402

from freeroam.models import torch_loading, vlm_loading  # noqa: E402
from freeroam.models.text_loading import UNKNOWN_CONTEXT, Weights, find_context  # noqa: E402
from freeroam.models.text_prompts import TextPrompts  # noqa: E402
from freeroam.models.transformers_text import TransformersText  # noqa: E402


@pytest.fixture(scope="module")
def whole(tmp_path_factory) -> Path:
    return make_language_model("llama", tmp_path_factory.mktemp("text") / "llama", end="<|im_end|>")


@pytest.fixture
def folder(whole: Path, tmp_path: Path) -> Path:
    return shutil.copytree(whole, tmp_path / "model")


def loaded(path: Any, device: str = "cpu", **options: Any) -> TransformersText:
    model = load_model("transformers_text", {"threads": 1, **options})
    assert isinstance(model, TransformersText)
    asyncio.run(model.initialize(str(path), device))
    return model


def test_a_folder_says_what_it_is(folder: Path) -> None:
    model = loaded(folder, max_batch=7)

    info = model.get_model_info()
    assert info["model_type"] == "transformers_text"
    assert info["architecture"] == "LlamaForCausalLM"
    assert info["parameters"] == sum(weights.numel() for weights in model._ready.decoder.model.parameters())
    assert (info["device"], info["dtype"], info["quantization"]) == ("cpu", "float32", "none")
    assert info["context_tokens"] == CONTEXT
    assert info["chat_template"] is True
    wishes = model.get_wishes()
    assert (wishes.max_batch, wishes.streams_text) == (7, True)
    json.dumps(info)


@pytest.mark.parametrize("options", [{"dtype": "bfloat16"}, {"quantization": "dynamic8"}, {"dtype": "float16"}])
def test_fewer_bits_speak_too(folder: Path, options: dict[str, str]) -> None:
    model = loaded(folder, **options)
    questions = [Question((), text, InferenceParams(max_tokens=5)) for text in ("hi", "the quick brown fox")]

    answers = asyncio.run(model.predict_batch(questions))

    info = model.get_model_info()
    assert {name: info[name] for name in options} == options
    assert info["parameters"] > 10_000
    assert [answer["completion_tokens"] for answer in answers] == [5, 5]


def broken(folder: Path, what: str) -> Path:
    """Return a path with one thing wrong."""
    config = json.loads((folder / "config.json").read_text())
    match what:
        case "missing":
            return folder / "nowhere"
        case "missing file":
            return folder / "nowhere.gguf"
        case "other file":
            return folder / "model.safetensors"
        case "empty folder":
            (folder / "empty").mkdir()
            return folder / "empty"
        case "unknown":
            config |= {"model_type": "phantom", "architectures": ["PhantomForCausalLM"]}
        case "no head":
            config |= {"architectures": ["LlamaModel"]}
        case "encoder":
            transformers.BertConfig(architectures=["BertForMaskedLM"]).save_pretrained(folder)
            return folder
        case "encoder-decoder":
            transformers.BartConfig(architectures=["BartForConditionalGeneration"]).save_pretrained(folder)
            return folder
        case "pictures":
            transformers.Qwen2_5_VLConfig(architectures=["Qwen2_5_VLForConditionalGeneration"]).save_pretrained(folder)
            return folder
        case "no json":
            (folder / "config.json").write_text("{")
            return folder
        case "no tokenizer":
            for file in folder.glob("*token*"):
                file.unlink()
            return folder
        case "no gguf":
            (folder / "broken.gguf").write_bytes(b"no such thing")
            return folder / "broken.gguf"
    (folder / "config.json").write_text(json.dumps(config))
    return folder


@pytest.mark.parametrize(
    ("what", "words"),
    [
        ("missing", "no such file or folder"),
        ("missing file", "no such file or folder"),
        ("other file", "must be GGUF"),
        ("empty folder", r"neither config\.json nor a GGUF file"),
        ("unknown", "phantom"),
        ("no head", "LlamaModel is no causal language model"),
        ("encoder", "BertForMaskedLM is no causal language model"),
        ("encoder-decoder", "no causal language model"),
        ("pictures", "MODEL_TYPE=transformers_vlm"),
        ("no json", "no model that transformers can read"),
        ("no tokenizer", "tokenizer"),
        ("no gguf", "no model that transformers can read"),
    ],
)
def test_a_path_that_holds_no_language_model_is_refused_with_the_reason(folder: Path, what: str, words: str) -> None:
    path = broken(folder, what)

    with pytest.raises(ConfigurationError, match=words) as caught:
        loaded(path)

    assert str(path) in caught.value.message


def test_an_empty_path_is_refused() -> None:
    with pytest.raises(ConfigurationError, match="MODEL_PATH is empty"):
        loaded("")


def test_several_gguf_files_are_told_apart_by_name(tmp_path: Path) -> None:
    for name in ("a.gguf", "b.gguf"):
        (tmp_path / name).write_bytes(b"GGUF")

    with pytest.raises(ConfigurationError, match=r"a\.gguf, b\.gguf"):
        loaded(tmp_path)
    with pytest.raises(ConfigurationError, match=r"no such file"):
        loaded(tmp_path, gguf_file="c.gguf")


@pytest.mark.parametrize("what", ["lacking", "cut"])
def test_weights_that_are_not_whole_fail_to_load(folder: Path, what: str) -> None:
    from safetensors.torch import load_file, save_file

    file = folder / "model.safetensors"
    if what == "lacking":
        weights = load_file(file)
        name = next(name for name in weights if "k_proj" in name)
        del weights[name]
        save_file(weights, file, metadata={"format": "pt"})
    else:
        file.write_bytes(file.read_bytes()[:-1000])

    with pytest.raises(ModelError) as caught:
        loaded(folder)

    assert caught.value.code == "load_failed"
    assert what != "lacking" or "k_proj" in caught.value.message


def test_weights_that_are_no_numbers_fail_to_load(folder: Path) -> None:
    from safetensors.torch import load_file, save_file

    weights = load_file(folder / "model.safetensors")
    weights["model.norm.weight"].fill_(float("nan"))
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})

    with pytest.raises(ModelError, match="no numbers"):
        loaded(folder)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"dtype": "int3"}, "dtype is 'int3'"),
        ({"quantization": "2bit"}, "quantization is '2bit'"),
        ({"quantization": "4bit"}, "needs CUDA"),
        ({"max_batch": 0}, "max_batch is 0"),
        ({"max_batch": 65}, "max_batch is 65"),
        ({"max_batch": True}, "max_batch is True"),
        ({"max_tokens": 0}, "max_tokens is 0"),
        ({"context": 3}, "context is 3"),
        ({"read_tokens": -1}, "read_tokens is -1"),
        ({"colour": "red"}, "unknown option colour"),
    ],
)
def test_an_option_that_cannot_be_is_named(folder: Path, options: dict[str, Any], words: str) -> None:
    with pytest.raises(ConfigurationError, match=words):
        loaded(folder, **options)


@pytest.mark.parametrize(
    ("device", "words"), [("gpu", "expected auto"), ("cuda:", "expected auto"), ("cuda:x", "expected auto")]
)
def test_a_device_that_cannot_be_is_named(folder: Path, device: str, words: str) -> None:
    with pytest.raises(ConfigurationError, match=words):
        loaded(folder, device)


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a CUDA device")
@pytest.mark.parametrize("device", ["cuda", "cuda:1"])
def test_a_device_that_is_not_there_is_refused(folder: Path, device: str) -> None:
    with pytest.raises(ConfigurationError, match="no CUDA device"):
        loaded(folder, device)


def test_a_processor_computes_in_float32_and_a_card_in_half_of_it() -> None:
    assert torch_loading.choose_device("cpu") == torch.device("cpu")
    assert torch_loading.choose_dtype(torch.device("cpu")) == torch.float32
    assert torch_loading.choose_dtype(torch.device("cuda:0"), "float16") == torch.float16
    arguments = torch_loading.loading_arguments(torch.device("cuda:1"), torch.bfloat16)
    assert arguments == {
        "dtype": torch.bfloat16,
        "device_map": {"": torch.device("cuda:1")},
        "trust_remote_code": False,
    }


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (torch.OutOfMemoryError("CUDA out of memory"), "out_of_memory"),
        (MemoryError(), "out_of_memory"),
        (ValueError("what\nelse"), "load_failed"),
    ],
)
def test_an_error_of_a_library_becomes_one_of_ours(error: Exception, code: str) -> None:
    with pytest.raises(FreeroamError) as caught, torch_loading.told_honestly("loading x"):
        raise error

    assert caught.value.code == code
    assert caught.value.message.startswith("loading x")
    assert "\n" not in caught.value.message


@pytest.mark.parametrize(
    ("trained", "wanted", "context"),
    [(256, None, 256), (256, 100, 100), (256, 9000, 256), (None, None, UNKNOWN_CONTEXT), (None, 99, 99)],
)
def test_the_context_is_what_the_model_was_trained_for_or_less(
    trained: int | None, wanted: int | None, context: int
) -> None:
    config = transformers.LlamaConfig(max_position_embeddings=trained) if trained else transformers.MambaConfig()

    assert find_context(config, wanted) == context


def question(prompt: str = "hi", **params: Any) -> Question:
    return Question((), prompt, InferenceParams(**params))


def written(prompts: TextPrompts, tokenizer: Any, asked: Question) -> str:
    return tokenizer.decode(list(prompts.prepare(asked).tokens), skip_special_tokens=False)


def test_a_prompt_is_put_into_the_chat_template() -> None:
    tokenizer = byte_tokenizer()
    prompts = TextPrompts(tokenizer, system_prompt="be brief")

    text = written(prompts, tokenizer, question("hi"))

    assert text == ("<|im_start|>system\nbe brief<|im_end|>\n<|im_start|>user\nhi<|im_end|>\n<|im_start|>assistant\n")
    assert not prompts.prepare(question()).goes_on


def test_messages_are_the_conversation_and_the_prompt_is_not_read() -> None:
    tokenizer = byte_tokenizer()
    turns = [
        {"role": "system", "content": "own"},
        {"role": "user", "content": "one"},
        {"role": "assistant", "content": "two"},
        {"role": "user", "content": "three"},
    ]

    for chat in (None, True, False):
        prompts = TextPrompts(tokenizer, chat=chat, system_prompt="be brief")
        text = written(prompts, tokenizer, question("not read", messages=turns))
        assert "not read" not in text
        assert "be brief" not in text
        assert text.count("<|im_start|>") == 5


@pytest.mark.parametrize(
    ("options", "params", "is_chat"),
    [
        ({}, {}, True),
        ({}, {"chat": False}, False),
        ({"chat": False}, {}, False),
        ({"chat": False}, {"chat": True}, True),
        ({"chat": True}, {}, True),
    ],
)
def test_whether_a_prompt_is_a_question_is_said_by_it_else_by_the_option(
    options: dict[str, Any], params: dict[str, Any], is_chat: bool
) -> None:
    tokenizer = byte_tokenizer()

    text = written(TextPrompts(tokenizer, **options), tokenizer, question("hi", **params))

    assert (text == "hi") is not is_chat


def test_without_a_template_a_prompt_is_gone_on_with_from_its_mark_of_the_beginning() -> None:
    # Given a tokenizer that sets a mark before a text
    tokenizer = piece_tokenizer()
    from tokenizers.processors import TemplateProcessing

    tokenizer.backend_tokenizer.post_processor = TemplateProcessing(single="<s> $A", special_tokens=[("<s>", 1)])
    prompts = TextPrompts(tokenizer)

    prompt = prompts.prepare(question("the cat"))

    assert prompt.goes_on
    assert prompt.tokens[0] == 1
    assert prompt.tokens.count(1) == 1
    with pytest.raises(InvalidInput, match="no chat template"):
        prompts.prepare(question(messages=[{"role": "user", "content": "hi"}]))
    with pytest.raises(InvalidInput, match="no chat template"):
        prompts.prepare(question(chat=True))


@pytest.mark.parametrize("options", [{"chat": True}, {"system_prompt": "be brief"}])
def test_a_conversation_without_a_template_is_a_wrong_setting(options: dict[str, Any]) -> None:
    with pytest.raises(ConfigurationError, match="chat_template"):
        TextPrompts(piece_tokenizer(), **options)


def test_a_template_and_what_it_is_told_may_be_given() -> None:
    tokenizer = byte_tokenizer()

    own = TextPrompts(tokenizer, template="{{ messages[0]['content'] }}!{{ mood }}", template_options={"mood": "sad"})

    assert written(own, tokenizer, question("hi")) == "hi!sad"


def test_a_template_that_refuses_is_the_askers_error() -> None:
    prompts = TextPrompts(byte_tokenizer(), template="{{ raise_exception('only one turn') }}")

    with pytest.raises(InvalidInput, match="only one turn"):
        prompts.prepare(question())


# What comes with a model is data, never code


class Touch:
    """Makes a file when it is unpickled."""

    def __init__(self, path: Path) -> None:
        self._path = path

    def __reduce__(self) -> Any:
        return Path.touch, (self._path,)


def test_code_beside_a_model_is_not_run_and_nobody_is_asked_whether_it_may(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Given a model that brings its own classes, started on a terminal where somebody says yes to everything
    ran = tmp_path / "ran"
    (folder / "own.py").write_text(f"open({str(ran)!r}, 'w')\n")
    own = {"AutoConfig": "own.Config", "AutoModelForCausalLM": "own.Model", "AutoTokenizer": ["own.Tokenizer", None]}
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**config, "model_type": "own", "auto_map": own}))
    monkeypatch.setattr("builtins.input", lambda *_: "yes")

    # When it is loaded, as text or as one that sees, then it is refused
    with pytest.raises(ConfigurationError, match="custom code"):
        loaded(folder)
    with pytest.raises(ConfigurationError, match="custom code"):
        vlm_loading.load_config(str(folder))
    assert not ran.exists()


def test_weights_that_would_run_code_are_refused(folder: Path, tmp_path: Path) -> None:
    # Given a pickle in the place of the weights
    ran = tmp_path / "ran"
    (folder / "model.safetensors").unlink()
    torch.save({"weights": Touch(ran)}, folder / "pytorch_model.bin")

    # When it is loaded, then it is read as data, which it is not
    with pytest.raises(ModelError) as failure:
        loaded(folder)
    assert failure.value.code == "load_failed"
    assert not ran.exists()


def test_the_collector_rests_only_while_a_gguf_file_is_read() -> None:
    seen = []
    for name in ("model.gguf", None):
        with suppress(ModelError), Weights("asked", "place", name).being_read():
            seen.append(gc.isenabled())
            raise ModelError("broken")
        seen.append(gc.isenabled())

    assert seen == [False, True, True, True]


@pytest.mark.parametrize("name", ["../other.gguf", "/etc/passwd", "sub/../../other.gguf"])
def test_a_gguf_file_lies_below_the_model_path(folder: Path, name: str) -> None:
    # Given a file that a caller allowed to load models here could name, when it lies elsewhere, then it is not opened
    (folder.parent / "other.gguf").touch()
    (folder / "sub").mkdir()
    with pytest.raises(ConfigurationError, match="below MODEL_PATH"):
        loaded(folder, gguf_file=name)


def test_a_chat_template_reaches_nothing_outside_itself(whole: Path) -> None:
    # Given a template that looks for a way out, when it is used, then it is stopped
    out = "{{ ''.__class__.__mro__[1].__subclasses__() }}"
    prompts = TextPrompts(transformers.AutoTokenizer.from_pretrained(whole), template=out)
    with pytest.raises(InvalidInput, match="unsafe"):
        prompts.prepare(Question((), "hello", InferenceParams()))
