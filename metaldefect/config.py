"""The base of all settings: typed, checked when they are made, unchanged afterwards."""

from __future__ import annotations

from typing import Any, Self

from pydantic import BaseModel, ConfigDict, ValidationError

from metaldefect.errors import UserError

ADDED_LATER = "absent from files that were made before it"  # marks a setting that a complete file may lack


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

    @classmethod
    def parse(cls, content: Any, origin: str) -> Self:
        """Settings from the content of a file.

        Raises:
            UserError: a key or value is wrong; the message names the file (`origin`) and lists all.
        """
        try:
            return cls.model_validate(content)
        except ValidationError as error:
            lines = [
                f"  {'.'.join(map(str, item['loc'])) or '(settings)'}: {item['msg']}"
                for item in error.errors()
            ]
            raise UserError(f"{origin} is not valid:\n" + "\n".join(lines)) from error

    def replace(self, **values: Any) -> Self:
        """A copy with other values, checked like any settings.

        Raises:
            ValidationError: a name or value is wrong.
        """
        return type(self).model_validate(self.model_dump() | values)
