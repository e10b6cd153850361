"""Settings are read in one place, and a wrong one is explained by name, value and what is allowed."""

from __future__ import annotations

from pathlib import Path

import pytest

from freeroam.engines.specs import ModelSpec
from freeroam.security.keys import digest_of
from freeroam.settings import LATER_SETTINGS, SECRETS, Settings, allowed_values, load_settings
from freeroam.sources.decoding.values import DecoderConfig
from freeroam.sources.http_files import ALL_TEMPORARY_BYTES, MAX_TEMPORARY_BYTES
from freeroam.sources.limits import SourceLimits
from freeroam.vocabulary.errors import ConfigurationError


@pytest.fixture(autouse=True)
def clean_environment(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    for name in [*(field.upper() for field in Settings.model_fields), *(f"{name}_FILE" for name in SECRETS)]:
        monkeypatch.delenv(name, raising=False)
    monkeypatch.chdir(tmp_path)


def test_the_defaults_are_those_of_the_contract() -> None:
    # Given nothing set, then each setting has its default
    settings = load_settings()
    assert (settings.host, settings.port, settings.default_fps, settings.max_fps) == ("127.0.0.1", 8000, 2.0, 30)
    assert (settings.max_batch_size, settings.max_batch_wait_ms, settings.num_replicas) == (8, 5, 1)
    assert (settings.max_concurrent_streams, settings.max_connections, settings.max_queue) == (10, 256, 1024)
    assert (settings.max_body_bytes, settings.max_pixels, settings.max_prompt_chars) == (33_554_432, 50_000_000, 32_768)
    assert (settings.request_timeout, settings.stream_idle_timeout, settings.drain_timeout) == (30, 60, 30)
    assert (settings.source_open_timeout, settings.source_read_timeout, settings.source_stall_timeout) == (10, 5, 20)
    assert (settings.rate_limit_per_minute, settings.results_retention_hours) == (1000, 168)
    assert (settings.memory_cleanup_interval, settings.lease_timeout, settings.max_priority_wait) == (300, 10, 5)
    assert (settings.model_load_timeout, settings.inference_timeout, settings.max_tokens) == (600, 60, 4096)
    assert settings.full_redis_url == "redis://localhost:6379/0"
    assert settings.full_database_url.endswith("/data/freeroam.db")


@pytest.mark.parametrize(
    ("name", "value", "words"),
    [
        ("PORT", "abc", ["a whole number from 0 to 65535"]),
        ("MAX_BATCH_SIZE", "65", ["a whole number from 1 to 64"]),
        ("MAX_BATCH_WAIT_MS", "101", ["a number from 0 to 100"]),
        ("DEFAULT_FPS", "0", ["a number above 0"]),
        ("DEFAULT_FPS", "nan", []),
        ("DEFAULT_FPS", "50", ["MAX_FPS=30"]),
        ("ALLOW_ANONYMOUS", "maybe", ["true, false"]),
        ("LOG_LEVEL", "LOUD", ["DEBUG, INFO, WARNING"]),
        ("ENGINE", "ray", ["embedded"]),
        ("DEVICE", "gpu", ["cpu, cuda"]),
        ("TRUSTED_PROXIES", "10.0.0.0/33", []),
        ("RATE_LIMITS", "often", ["POST /path=requests a minute"]),
        ("ROOT_PATH", "vision", ["must begin with /"]),
    ],
)
def test_a_wrong_value_is_explained(monkeypatch: pytest.MonkeyPatch, name: str, value: str, words: list[str]) -> None:
    # Given a wrong value
    monkeypatch.setenv(name, value)

    # When settings are read
    with pytest.raises(ConfigurationError) as raised:
        load_settings()

    # Then the message names the variable, the value and what is allowed
    for word in [f"{name}={value}", *words]:
        assert word in raised.value.message


def test_the_greatest_length_holds_for_callers_jobs_and_every_model(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MAX_TOKENS", "7")
    settings = load_settings()

    bounds = [config.max_tokens for config in (settings.api_config(), settings.job_config(), settings.engine_config())]
    assert bounds == [7, 7, 7]


def test_every_wrong_value_is_named_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    # Given two wrong values, then both are named
    monkeypatch.setenv("PORT", "abc")
    monkeypatch.setenv("MAX_QUEUE", "0")
    with pytest.raises(ConfigurationError, match=r"PORT=abc.*; MAX_QUEUE=0"):
        load_settings()


def test_the_port_that_kubernetes_injects_is_understood(monkeypatch: pytest.MonkeyPatch) -> None:
    # Given REDIS_PORT as Kubernetes sets it beside a service named redis
    monkeypatch.setenv("REDIS_PORT", "tcp://10.0.0.1:6380")

    # Then it tells host and port, unless a host is set
    assert load_settings().full_redis_url == "redis://10.0.0.1:6380/0"
    monkeypatch.setenv("REDIS_HOST", "cache")
    assert load_settings().full_redis_url == "redis://cache:6380/0"


@pytest.mark.parametrize("name", SECRETS)
def test_a_secret_may_come_from_a_file(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, name: str) -> None:
    # Given a file with a secret, and a newline as editors leave it
    path = tmp_path / "secret"
    path.write_text("hunter2hunter2hunter2\n")
    monkeypatch.setenv(f"{name}_FILE", str(path))

    # When settings are read, then the secret is its text
    assert getattr(load_settings(), name.lower()).get_secret_value() == "hunter2hunter2hunter2"

    # And both at once, or a missing file, are errors
    monkeypatch.setenv(name, "other")
    with pytest.raises(ConfigurationError, match=f"{name} and {name}_FILE are both set"):
        load_settings()
    monkeypatch.delenv(name)
    monkeypatch.setenv(f"{name}_FILE", str(tmp_path / "none"))
    with pytest.raises(ConfigurationError, match=f"{name}_FILE=.*cannot be read"):
        load_settings()

    # And so is an empty one, which would else leave the service without the secret
    path.write_text("\n")
    monkeypatch.setenv(f"{name}_FILE", str(path))
    with pytest.raises(ConfigurationError, match=f"{name}_FILE=.*is empty"):
        load_settings()


def test_a_key_is_taken_as_a_header_carries_it(monkeypatch: pytest.MonkeyPatch) -> None:
    # Given blanks around a key, which no header keeps, then they do not belong to it
    monkeypatch.setenv("API_KEY", " a-long-and-random-key ")
    assert load_settings().key_list()[0].digest == digest_of("a-long-and-random-key")

    # And a key of blanks alone is an error that names the setting
    monkeypatch.setenv("API_KEY", "   ")
    with pytest.raises(ConfigurationError, match="API_KEY is blank"):
        load_settings().key_list()


def test_secrets_are_not_shown(monkeypatch: pytest.MonkeyPatch) -> None:
    # Given secrets, when settings are shown, then they are not
    monkeypatch.setenv("API_KEY", "hunter2hunter2hunter2")
    monkeypatch.setenv("REDIS_PASSWORD", "hunter2@/x")
    settings = load_settings()
    assert "hunter2" not in repr(settings)

    # And a password with signs of its own stays one password
    assert settings.full_redis_url == "redis://:hunter2%40%2Fx@localhost:6379/0"


def test_a_line_in_dotenv_is_read_and_the_environment_wins(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    # Given a .env file
    (tmp_path / ".env").write_text("PORT=9000\nMAX_FPS=10\nSOMETHING_ELSE=1\nCORS_ORIGINS=http://a, http://b\n")
    monkeypatch.setenv("PORT", "9001")

    # Then it is read, lists are split, and the environment wins
    settings = load_settings()
    assert (settings.port, settings.max_fps, settings.cors_origins) == (9001, 10, ("http://a", "http://b"))


def test_what_frames_and_recordings_may_take_is_set_and_is_else_what_the_parts_take_by_themselves(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    # Given nothing set, then the limits are those of the parts
    assert load_settings().decoder_config().ring_bytes == DecoderConfig().ring_bytes
    settings = load_settings()
    assert (settings.source_file_bytes, settings.source_disk_bytes) == (MAX_TEMPORARY_BYTES, ALL_TEMPORARY_BYTES)
    assert settings.source_limits() == SourceLimits()

    # When they are set, then the parts are given them
    monkeypatch.setenv("FRAME_MEMORY_BYTES", "0")
    monkeypatch.setenv("SOURCE_FILE_BYTES", "2000000")
    monkeypatch.setenv("SOURCE_DISK_BYTES", "3000000")
    monkeypatch.setenv("SOURCE_PLAYLIST_BYTES", "4000")
    monkeypatch.setenv("SOURCE_SEGMENT_BYTES", "5000")
    monkeypatch.setenv("SOURCE_PICTURE_BYTES", "6000")
    settings = load_settings()
    assert settings.decoder_config().ring_bytes == 0
    assert (settings.source_file_bytes, settings.source_disk_bytes) == (2_000_000, 3_000_000)
    assert settings.source_limits() == SourceLimits(4000, 5000, 6000)


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("SOURCE_FILE_BYTES", "a whole number from 1048576"),
        ("FRAME_MEMORY_BYTES", "a whole number from 0 to 1099511627776"),
        ("DEFAULT_FPS", "a number above 0 to 1000"),
    ],
)
def test_bounds_are_written_out(name: str, words: str) -> None:
    assert allowed_values(name.lower()) == words


def test_an_empty_variable_is_as_if_it_were_not_set(monkeypatch: pytest.MonkeyPatch) -> None:
    # Given API_KEY= as compose files leave it, then there is no key
    monkeypatch.setenv("API_KEY", "")
    assert load_settings().key_list() == ()


def test_every_setting_is_described_and_no_name_is_both_read_and_reserved() -> None:
    # Given every field
    for name, field in Settings.model_fields.items():
        # Then it says what it means and what it may be
        assert field.description, name
        assert allowed_values(name)
        assert name.upper() not in LATER_SETTINGS


def test_a_class_of_ones_own_is_called_by_its_name(monkeypatch: pytest.MonkeyPatch) -> None:
    # Given MODEL_TYPE as a class, then callers name the class
    monkeypatch.setenv("MODEL_TYPE", "my.models:DoorWatcher")
    (spec,) = load_settings().model_specs()
    assert (spec.name, spec.model_type) == ("DoorWatcher", "my.models:DoorWatcher")


def test_more_models_come_from_a_file_and_stand_behind_the_one_of_the_start(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    # Given a file that leaves out what other settings say
    path = tmp_path / "models.yaml"
    path.write_text("models: [{name: more, model_type: fake}, {name: both, ensemble: {members: [detector, more]}}]")
    monkeypatch.setenv("MODELS", str(path))
    monkeypatch.setenv("MAX_BATCH_SIZE", "3")
    monkeypatch.setenv("DEVICE", "cpu")
    first, more, both = load_settings().model_specs()

    # Then those hold for it too
    assert [spec.name for spec in (first, more, both)] == ["detector", "more", "both"]
    assert isinstance(more, ModelSpec)
    assert (more.max_batch, more.device) == (3, "cpu")


def test_a_file_of_models_that_is_not_there_is_named(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("MODELS", str(tmp_path / "absent.yaml"))

    with pytest.raises(ConfigurationError, match=r"MODELS=.*absent.yaml cannot be read"):
        load_settings().model_specs()
