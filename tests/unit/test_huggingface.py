"""Sets through the datasets package, all offline: local files, saved sets, cached sets, and what is said without."""

import sys
import time

import pytest

from tinsmith.adapters.huggingface import hub
from tinsmith.adapters.huggingface.datasets import HubSource
from tinsmith.domain.errors import (
    ConfigError,
    DataError,
    DataNotFoundError,
    MissingExtraError,
    ModelNotFoundError,
    WorldError,
)

ROWS = [{"question": f"{i} + 1", "answer": str(i + 1), "level": i} for i in range(5)]


def test_without_the_extra_the_error_says_what_to_install(monkeypatch, tmp_path):
    monkeypatch.setitem(sys.modules, "datasets", None)
    monkeypatch.setitem(sys.modules, "huggingface_hub", None)
    (tmp_path / "a.parquet").write_bytes(b"")
    for call in (
        lambda: HubSource.of("hf://org/name"),
        lambda: HubSource.local(tmp_path / "a.parquet"),
        lambda: hub.model("org/name"),
    ):
        with pytest.raises(MissingExtraError, match=r'pip install "tinsmith\[data\]"'):
            call()


def test_an_url_of_another_form_is_refused_before_anything_is_imported():
    for url in ("hf://", "hf://a/b/c/d", "hf:/a/b", "hf://a b"):
        with pytest.raises(ConfigError, match="hf://ORG/NAME"):
            HubSource.of(url)


@pytest.fixture
def datasets(monkeypatch, tmp_path):
    package = pytest.importorskip("datasets", reason="needs the extra: data")
    constants = pytest.importorskip("huggingface_hub").constants
    monkeypatch.setattr(package.config, "HF_DATASETS_CACHE", tmp_path / "sets")
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(constants, "ENDPOINT", "http://127.0.0.1:1")  # nothing listens there
    return package


def test_local_files_are_streamed(datasets, tmp_path):
    made = datasets.Dataset.from_list(ROWS)
    made.to_parquet(tmp_path / "a.parquet")
    made.to_csv(tmp_path / "a.csv")
    for name in ("a.parquet", "a.csv"):
        source = HubSource.local(tmp_path / name, columns=["question", "level"])
        assert list(source) == [{"question": row["question"], "level": row["level"]} for row in ROWS]
        assert source.count() is None
        assert source.name == str(tmp_path / name)


def test_a_saved_set_is_read_by_split(datasets, tmp_path):
    made = datasets.Dataset.from_list(ROWS)
    datasets.DatasetDict({"train": made, "test": made.select(range(2))}).save_to_disk(tmp_path / "saved")
    assert list(HubSource.local(tmp_path / "saved")) == ROWS
    test = HubSource.local(tmp_path / "saved", split="test")
    assert (list(test), test.count()) == (ROWS[:2], 2)
    with pytest.raises(DataError, match="no split 'dev'; there are train, test"):
        HubSource.local(tmp_path / "saved", split="dev")
    with pytest.raises(DataError, match="no column 'text'; there are question, answer, level"):
        HubSource.local(tmp_path / "saved", columns=["text"])


def test_a_broken_or_missing_file_is_named(datasets, tmp_path):
    with pytest.raises(DataNotFoundError, match=r"none\.parquet"):
        HubSource.local(tmp_path / "none.parquet")
    (tmp_path / "broken.parquet").write_bytes(b"PAR1 no")
    with pytest.raises(DataError, match=r"broken\.parquet") as caught:
        list(HubSource.local(tmp_path / "broken.parquet"))
    assert len(str(caught.value).splitlines()) == 1


def test_a_set_that_was_prepared_once_is_read_from_the_cache(datasets, tmp_path):
    from datasets.packaged_modules.json.json import Json

    datasets.Dataset.from_list(ROWS).to_json(tmp_path / "rows.jsonl")
    builder = Json(
        cache_dir=str(tmp_path / "sets"),
        dataset_name="sums",
        config_name="main",
        hash="0123456789abcdef",
        data_files={"train": [str(tmp_path / "rows.jsonl")]},
    )
    builder.download_and_prepare()
    # Where it lies when it came from the hub:
    (made,) = (tmp_path / "sets" / "sums").glob("main*")
    (tmp_path / "sets" / "org___sums").mkdir()
    made.rename(tmp_path / "sets" / "org___sums" / "main")
    source = HubSource.of("hf://org/sums", columns=["answer"])
    assert list(source) == [{"answer": row["answer"]} for row in ROWS]
    assert source.count() == len(ROWS)
    assert not hub.require("huggingface_hub.constants").HF_HUB_OFFLINE, "offline mode ends with the reading"
    assert list(HubSource.of("hf://org/sums/main:train[:2]", columns=["level"])) == [{"level": 0}, {"level": 1}]
    for other in ("hf://org/sums:test", "hf://org/sums/other"):
        with pytest.raises(WorldError, match=r"cached otherwise .*cannot be reached") as caught:
            HubSource.of(other)
    assert len(str(caught.value).splitlines()) == 1


def test_a_downloaded_repository_is_read_from_the_cache(datasets, tmp_path):
    repository = tmp_path / "hub" / "datasets--org--raw"
    folder = repository / "snapshots" / ("0" * 40)
    folder.mkdir(parents=True)
    (repository / "refs").mkdir()
    (repository / "refs" / "main").write_text("0" * 40)
    datasets.Dataset.from_list(ROWS).to_json(folder / "train.jsonl")
    assert list(HubSource.of("hf://org/raw")) == ROWS


@pytest.mark.parametrize("cached", [False, True])
def test_without_network_one_line_says_what_is_cached_and_what_to_do(datasets, tmp_path, cached):
    if cached:
        (tmp_path / "sets" / "org___other" / "main" / "0.0.0" / "00").mkdir(parents=True)
    started = time.monotonic()
    with pytest.raises(WorldError, match=r"hf download --repo-type dataset org/name") as caught:
        HubSource.of("hf://org/name:train")
    assert time.monotonic() - started < 20, "it kept on trying"
    message = str(caught.value)
    assert len(message.splitlines()) == 1
    assert ("org/other" if cached else "none") in message
    assert "127.0.0.1:1 does not answer" in message


def test_a_model_comes_from_the_cache_or_one_line_says_how_to_get_it(datasets, tmp_path):
    repository = tmp_path / "hub" / "models--org--small"
    folder = repository / "snapshots" / ("0" * 40)
    folder.mkdir(parents=True)
    (repository / "refs").mkdir()
    (repository / "refs" / "main").write_text("0" * 40)
    (folder / "config.json").write_text("{}")
    assert hub.model("org/small") == folder
    with pytest.raises(ModelNotFoundError, match=r"cached in .*: org/small.*hf download org/large") as caught:
        hub.model("org/large")
    assert len(str(caught.value).splitlines()) == 1


def test_a_gated_set_is_said_to_be(datasets, monkeypatch):
    gated = "Dataset 'org/name' is a gated dataset on the Hub. Visit the dataset page to ask for access."

    def load(*_, **__):
        raise datasets.exceptions.DatasetNotFoundError(gated)

    monkeypatch.setattr(datasets, "load_dataset", load)
    monkeypatch.setattr("tinsmith.adapters.huggingface.datasets.why_unreachable", lambda: None)
    with pytest.raises(DataNotFoundError, match="is a gated dataset on the Hub"):
        HubSource.of("hf://org/name:train")
