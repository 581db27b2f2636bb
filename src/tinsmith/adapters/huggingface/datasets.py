"""Rows through the `datasets` package (extra `data`): sets of the hub, saved sets, parquet, arrow and CSV files."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from tinsmith.adapters.huggingface.hub import offline, one_line, require, snapshot, why_unreachable
from tinsmith.domain.errors import ConfigError, DataError, DataNotFoundError, WorldError

FILES = {".parquet": "parquet", ".arrow": "arrow", ".csv": "csv"}
"""Suffixes of local files, with the name `datasets` has for them."""

_URL = re.compile(r"hf://(?P<name>[\w.-]+(?:/[\w.-]+)?)(?:/(?P<config>[\w.-]+))?(?::(?P<split>[\w.\[\]:%+-]+))?")


class HubSource:
    """A DatasetSource of a `datasets.Dataset`, or of a stream that holds one row group at a time.

    Raises DataNotFoundError, DataError or WorldError when it is made, each in one line.
    """

    def __init__(self, dataset: Any, name: str, *, columns: Sequence[str] = ()) -> None:
        if columns:
            known = dataset.column_names
            missing = [column for column in columns if known is not None and column not in known]
            if missing:
                raise DataError(f"no column {missing[0]!r}; there are {', '.join(known)}", source=name)
            dataset = dataset.select_columns(list(columns))
        self._dataset = dataset
        self._name = name

    @property
    def name(self) -> str:
        return self._name

    def count(self) -> int | None:
        return len(self._dataset) if hasattr(self._dataset, "__len__") else None

    def __iter__(self) -> Iterator[dict[str, Any]]:
        try:
            for row in self._dataset:
                yield dict(row)
        except (OSError, ValueError) as error:
            raise DataError(f"cannot be read on: {one_line(error)}", source=self._name) from error

    @classmethod
    def of(cls, url: str, *, columns: Sequence[str] = (), streaming: bool = False) -> HubSource:
        """A set of the hub: `hf://ORG/NAME[/CONFIG][:SPLIT]`, e.g. `hf://openai/gsm8k/main:test`; split: `train`.

        The cache comes first. `streaming` reads over the network what is not cached, and keeps nothing.
        """
        match = _URL.fullmatch(url)
        if match is None:
            raise ConfigError(f"{url!r}: write hf://ORG/NAME[/CONFIG][:SPLIT], e.g. hf://openai/gsm8k/main:test")
        name, config, split = match["name"], match["config"], match["split"] or "train"
        datasets = require("datasets")
        cache = Path(datasets.config.HF_DATASETS_CACHE)
        folder = "___".join([*name.split("/")[:-1], datasets.naming.camelcase_to_snakecase(name.split("/")[-1])])
        why_not_cached = "not cached"
        if any((cache / folder).glob("*/*/*")):
            try:
                with offline():
                    return cls(_load(url, name, name=config, split=split), url, columns=columns)
            except (DataNotFoundError, WorldError, DataError) as error:
                why_not_cached = f"cached otherwise ({error})"
        if (downloaded := snapshot(name, kind="dataset")) is not None:
            dataset = _load(url, str(downloaded), name=config, split=split)
        else:
            reason = why_unreachable()
            if reason is not None:
                cached = ", ".join(p.name.replace("___", "/") for p in sorted(cache.glob("*___*"))) or "none"
                raise WorldError(
                    f"{url}: {why_not_cached} (cached in {cache}: {cached}), and the hub cannot be reached: {reason}. "
                    f"Where there is network, `hf download --repo-type dataset {name}` fills the cache; or give a "
                    "local file"
                )
            dataset = _load(url, name, name=config, split=split, streaming=streaming)
        return cls(dataset, url, columns=columns)

    @classmethod
    def local(cls, path: str | Path, *, split: str = "train", columns: Sequence[str] = ()) -> HubSource:
        """A parquet, arrow or CSV file, read as a stream, or a folder that `save_to_disk` wrote."""
        where = Path(path)
        if not where.exists():
            raise DataNotFoundError(f"{path}: no such data file")
        datasets = require("datasets")
        if where.is_dir():
            try:
                dataset = datasets.load_from_disk(str(where))
            except (OSError, ValueError) as error:
                raise DataError(one_line(error), source=str(path)) from None
            if hasattr(dataset, "keys"):
                if split not in dataset:
                    raise DataError(f"no split {split!r}; there are {', '.join(dataset)}", source=str(path))
                dataset = dataset[split]
        else:
            if where.suffix not in FILES:
                raise ConfigError(f"{path}: not one of {', '.join(FILES)}")
            dataset = _load(str(path), FILES[where.suffix], data_files=[str(where)], split="train", streaming=True)
        return cls(dataset, str(path), columns=columns)


def _load(where: str, path: str, **arguments: Any) -> Any:
    """`datasets.load_dataset`, with its errors as ours and without its chatter."""
    datasets = require("datasets")
    logging = datasets.utils.logging
    verbosity = logging.get_verbosity()
    logging.set_verbosity_error()
    try:
        return datasets.load_dataset(path, **arguments)
    except ConnectionError as error:
        raise WorldError(f"{where}: {one_line(error)}") from None
    except FileNotFoundError as error:
        raise DataNotFoundError(f"{where}: {one_line(error)}") from None
    except (OSError, ValueError, datasets.exceptions.DatasetsError) as error:
        raise DataError(one_line(error), source=where) from None
    finally:
        logging.set_verbosity(verbosity)
