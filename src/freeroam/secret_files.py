"""Settings that come from files: what orchestrators mount as secrets."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pydantic.fields import FieldInfo
from pydantic_settings import BaseSettings, PydanticBaseSettingsSource

from freeroam.vocabulary.errors import ConfigurationError

SECRETS = ("API_KEY", "REDIS_PASSWORD", "REDIS_URL", "DATABASE_URL")
"""Settings that may also come from the file which ``<NAME>_FILE`` names."""


class SecretFiles(PydanticBaseSettingsSource):
    """Reads ``API_KEY_FILE`` and its like.

    Args:
        settings_cls: Whose fields.
        variables: Where the names of files may stand.
    """

    def __init__(self, settings_cls: type[BaseSettings], *variables: PydanticBaseSettingsSource) -> None:
        super().__init__(settings_cls)
        self._variables: list[Mapping[str, str | None]] = [getattr(source, "env_vars", {}) for source in variables]

    def get_field_value(self, field: FieldInfo, field_name: str) -> tuple[Any, str, bool]:  # noqa: ARG002
        """Return the text of the file that ``<NAME>_FILE`` names, without newlines around it."""
        path = next((table[f"{field_name}_file"] for table in self._variables if table.get(f"{field_name}_file")), None)
        if path is None or field_name.upper() not in SECRETS:
            return None, field_name, False
        name = field_name.upper()
        if any(table.get(field_name) for table in self._variables):
            raise ConfigurationError(f"{name} and {name}_FILE are both set; keep one")
        try:
            text = Path(path).read_text(encoding="utf-8").strip("\r\n")
        except (OSError, UnicodeDecodeError) as error:
            raise ConfigurationError(f"{name}_FILE={path} cannot be read: {error}") from error
        if not text.strip():
            raise ConfigurationError(f"{name}_FILE={path} is empty")
        return text, field_name, False

    def __call__(self) -> dict[str, Any]:
        """Return the secrets that files give."""
        found: dict[str, Any] = {}
        for name, field in self.settings_cls.model_fields.items():
            value, _, _ = self.get_field_value(field, name)
            if value is not None:
                found[name] = value
        return found
