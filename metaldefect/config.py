"""The base of all settings: typed, checked when they are made, unchanged afterwards."""

from __future__ import annotations

from typing import Any, Self

from pydantic import BaseModel, ConfigDict


class Config(BaseModel):
    """Settings of one part of the project; an unknown name is an error.

    A subclass is the one place that says a setting's name, type, range and default. Files and commands with
    further keys inherit from it instead of listing its fields again.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    @classmethod
    def of(cls, settings: Config, **more: Any) -> Self:
        """This class's fields, taken from settings that hold them among others, and `more`.

        Raises:
            ValidationError: a field without a default is in neither; or a value of `more` is wrong.
        """
        shared = cls.model_fields.keys() & type(settings).model_fields.keys()
        return cls(**{name: getattr(settings, name) for name in shared} | more)
