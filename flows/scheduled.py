"""What a deployment passes to its flow: the name of a settings file."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

from pydantic import BeforeValidator

from flows.settings import NightlySettings, load_settings


def _loaded(given: object) -> object:
    return load_settings(Path(given)) if isinstance(given, str | Path) else given


Settings = Annotated[NightlySettings, BeforeValidator(_loaded, json_schema_input_type=NightlySettings | Path)]
