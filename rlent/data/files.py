"""Sets of problems that a recipe names: a file of one's own, and a data set of the Hugging Face hub."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from rlent.data.load import load_file, load_hub
from rlent.data.problems import Problems
from rlent.data.readers import SUFFIXES
from rlent.data.source import LoadedData
from rlent.data.templates import check_template
from rlent.errors import DataError


class FileData(LoadedData):
    """Problems from a file. Options are described in `recipes/data/file.yaml`."""

    def _load(self) -> Problems:
        if not self.path:
            raise DataError(f"data.path: not set; give the file to read, data.path=FILE (kinds: {', '.join(SUFFIXES)})")
        return self._from_file(self.path, self.limit)

    def check(self) -> None:
        """Read the files, so that everything wrong with them is known before a model is loaded.

        Raises:
            DataError: see `load_file`.
        """
        check_template(self.template)
        self._check_rows()


@dataclass(kw_only=True, eq=False, repr=False)
class HubData(LoadedData):
    """Problems from a data set of the Hugging Face hub, or from a copy of it in a file (`path`). Options are described in
    `recipes/data/hub.yaml`; the cards of known sets (`recipes/data/math500.yaml`, ...) state what differs from it.
    """

    name: str | None = None
    config: str | None = None
    split: str = "train"
    revision: str | None = None
    held_out_split: str | None = None
    protocol: Mapping[str, object] | None = None
    card: Mapping[str, object] | None = None

    def _from_hub(self, split: str, limit: int | None) -> Problems:
        if not self.name:
            raise DataError("data.name: not set; give the data set's name on the hub, data.name=owner/name")
        return load_hub(
            self.name,
            split=split,
            config=self.config,
            revision=self.revision,
            prompt_field=self.prompt_field,
            answer_field=self.answer_field,
            id_field=self.id_field,
            limit=limit,
        )

    def _load(self) -> Problems:
        return self._from_file(self.path, self.limit) if self.path else self._from_hub(self.split, self.limit)

    def _load_held_out(self) -> Problems | None:
        if self.held_out_path:
            return super()._load_held_out()
        return self._from_hub(self.held_out_split, None) if self.held_out_split and not self.path else None

    def check(self) -> None:
        """Refuse what can be seen without fetching anything (a file given by `path` is read).

        Raises:
            DataError: names the option.
        """
        check_template(self.template)
        if self.path:
            self._check_rows()
        elif not self.name:
            self._from_hub(self.split, None)


__all__ = ["FileData", "HubData", "load_file", "load_hub"]
