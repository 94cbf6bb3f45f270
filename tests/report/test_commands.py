from __future__ import annotations

import json
import os
import re
import resource
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import IO

import pyarrow as pa
import pytest
from deltalake import write_deltalake

from ingestion.errors import LakeError
from reporting import __main__
from reporting.errors import ReportError
from reporting.publishing import publish
from tests.report.lakes import ESCAPE, SAMPLE, write_lake, write_mart

ROOT = Path(__file__).parents[2]


def run(
    *arguments: str | Path,
    lake: Path | str | None = None,
    before: Callable[[], None] | None = None,
    stdout: int | IO[str] = subprocess.PIPE,
) -> subprocess.CompletedProcess[str]:
    environment = {
        name: value
        for name, value in os.environ.items()
        if not name.startswith("AWS_") and name not in {"LAKE_URI", "FORCE_COLOR", "COLUMNS"}
    }
    # No test asks a cloud's metadata service who it is.
    environment["AWS_EC2_METADATA_DISABLED"] = "true"
    if lake is not None:
        environment["LAKE_URI"] = str(lake)
    return subprocess.run(
        [sys.executable, "-m", "reporting", *map(str, arguments)],
        cwd=ROOT,
        env=environment,
        stdout=stdout,
        stderr=subprocess.PIPE,
        text=True,
        timeout=60,
        preexec_fn=before,
        check=False,
    )


def assert_told(result: subprocess.CompletedProcess[str], *parts: str) -> None:
    """The command failed with one line that names the thing, the place and the way out."""
    assert result.returncode == 1
    assert result.stderr.startswith("error: ")
    assert result.stderr.count("\n") == 1
    assert "Traceback" not in result.stderr
    for part in parts:
        assert part in result.stderr


@pytest.mark.parametrize("command", [[], ["page"], ["docs"], ["answers"]])
def test_help_shows_an_example(command: list[str]) -> None:
    result = run(*command, "--help")
    assert result.returncode == 0
    assert "Example: python -m reporting" in result.stdout


@pytest.mark.parametrize(
    "arguments", [["nope"], ["page", "--nope"], ["answers", "--limit", "0"], ["page", "extra"]]
)
def test_wrong_usage_exits_with_2(arguments: list[str]) -> None:
    result = run(*arguments)
    assert result.returncode == 2
    assert "Usage:" in result.stderr


def test_no_lake(tmp_path: Path) -> None:
    assert_told(run("answers", lake=tmp_path / "none"), str(tmp_path / "none"), "make demo")
    assert_told(run("answers", "--lake", ""), "''", "--lake")


def test_no_marts(tmp_path: Path) -> None:
    assert_told(run("page", lake=tmp_path), str(tmp_path), "no marts", "dbt build")
    (tmp_path / "marts").mkdir()
    assert_told(run("page", lake=tmp_path), str(tmp_path), "no marts", "dbt build")


def test_missing_marts_are_all_named(tmp_path: Path) -> None:
    lake = write_lake(tmp_path, {})
    shutil.rmtree(lake / "marts" / "top_user_by_country")
    result = run("answers", lake=lake)
    assert_told(result, "marts/top_user_by_country", str(lake), "is not a Delta table", "dbt build")
    shutil.rmtree(lake / "marts" / "data_quality")
    assert_told(run("answers", lake=lake), "marts/top_user_by_country, marts/data_quality", "are")


def test_a_mart_of_an_older_version_lacks_a_column(tmp_path: Path) -> None:
    lake = write_lake(tmp_path, {})
    mart = lake / "marts" / "users_joined_by_year"
    shutil.rmtree(mart)
    write_deltalake(str(mart), pa.table({"join_year": pa.array([2015], pa.int32())}))
    assert_told(
        run("answers", lake=lake), "users_joined_by_year", "number_users_joined", "dbt build"
    )


@pytest.mark.parametrize("file", ["*.parquet", "_delta_log/*.json"])
def test_a_damaged_mart_is_named(tmp_path: Path, file: str) -> None:
    lake = write_lake(tmp_path, SAMPLE)
    next((lake / "marts" / "data_quality").glob(file)).write_text("{not what it was")
    assert_told(run("answers", lake=lake), "cannot read", "marts/data_quality", "dbt build")


def test_an_address_that_cannot_be_read_is_told_without_its_credentials() -> None:
    result = run("answers", "--lake", "unknown://key:secret@bucket/prefix")
    assert_told(result, "unknown://bucket/prefix")
    assert "secret" not in result.stderr


def test_further_columns_and_rewritten_marts_do_not_matter(tmp_path: Path) -> None:
    lake = write_lake(tmp_path, {})
    write_deltalake(
        str(lake / "marts" / "users_joined_by_year"),
        pa.table(
            {
                "note": ["x", "y"],
                "number_users_joined": [7, 2],
                "join_year": pa.array([2018, 2016], pa.int32()),
            }
        ),
        mode="overwrite",
        schema_mode="overwrite",
    )
    document = json.loads(run("answers", "--json", lake=lake).stdout)
    assert document["answers"][6]["rows"] == [
        {"join_year": 2016, "number_users_joined": 2},
        {"join_year": 2018, "number_users_joined": 7},
    ]
    versions = {snapshot["mart"]: snapshot["version"] for snapshot in document["marts"]}
    assert versions["users_joined_by_year"] == 1
    assert versions["data_quality"] == 0


def test_answers_in_a_pipe_are_plain_whole_lines(lake: Path) -> None:
    result = run("answers", lake=lake)
    assert result.returncode == 0
    assert result.stderr == ""
    assert not re.search(r"[\x00-\x08\x0b-\x1f\x7f-\x9f\u202e]", result.stdout)
    assert "1  Which category is the most popular in each country?" in result.stdout
    assert "… and 233 more" in result.stdout
    assert re.search(r"^2021 +tie art and travel +12 +70$", result.stdout, re.MULTILINE)
    assert re.search(r"^Everything Ties +tie .+ 12,000,000$", result.stdout, re.MULTILINE)
    assert "The last record landed 3 May 2024, 09:30 UTC (" in result.stdout
    assert "[31mred" in result.stdout


def test_limit_cuts_the_tables(lake: Path) -> None:
    result = run("answers", "--limit", "240", lake=lake)
    assert result.stdout.count("… and 3 more") == 2


def test_json_holds_the_values_as_they_are(lake: Path) -> None:
    result = run("answers", "--json", lake=lake)
    assert result.stdout.isascii()
    document = json.loads(result.stdout)
    answers = {answer["number"]: answer for answer in document["answers"]}
    assert list(answers) == ["1", "2", "3", "3b", "4", "5", "6", "7", "8"]
    assert len(answers["1"]["rows"]) == len(SAMPLE["popular_category_by_country"])
    assert ESCAPE in {row["poster_name"] for row in answers["3"]["rows"]}
    quality = {row["kind"]: row for row in document["data_quality"]["rows"]}
    assert quality["pin"]["last_landed_at"] == "2024-05-03T09:30:00+00:00"
    limited = json.loads(run("answers", "--json", "--limit", "2", lake=lake).stdout)
    assert len(limited["answers"][0]["rows"]) == 2


def test_answers_of_an_empty_lake(empty_lake: Path) -> None:
    result = run("answers", lake=empty_lake)
    assert result.returncode == 0
    assert "No posts yet." in result.stdout
    assert "Nothing has landed yet." in result.stdout


def test_answers_reach_a_terminal_that_cannot_show_them(lake: Path) -> None:
    result = subprocess.run(
        [sys.executable, "-m", "reporting", "answers", "--lake", str(lake)],
        cwd=ROOT,
        env=os.environ | {"PYTHONIOENCODING": "ascii"},
        capture_output=True,
        check=False,
    )
    assert result.returncode == 0
    assert b"? and 233 more" in result.stdout


def test_output_that_cannot_be_written_is_told(lake: Path) -> None:
    with Path("/dev/full").open("w") as full_disk:
        result = run("answers", lake=lake, stdout=full_disk)
    assert_told(result, "cannot print", "No space left on device")


def test_answers_need_none_of_the_slow_imports(lake: Path) -> None:
    script = (
        "import sys; from reporting.__main__ import app\n"
        f"app(['answers', '--lake', {str(lake)!r}], standalone_mode=False)\n"
        "slow = {'pandas', 'pyarrow', 'pyspark', 'altair', 'vl_convert', 'jinja2'}\n"
        "print(slow & sys.modules.keys(), file=sys.stderr)"
    )
    result = subprocess.run(
        [sys.executable, "-c", script], cwd=ROOT, capture_output=True, text=True, check=True
    )
    assert result.stderr == "set()\n"


def test_the_page_is_written_where_asked(lake: Path, tmp_path: Path) -> None:
    out = tmp_path / "new" / "folder" / "page.html"
    result = run("page", "--out", out, lake=lake)
    assert result.returncode == 0
    assert result.stdout.startswith(f"{out} (1.")
    assert "…/lake" in out.read_text()
    assert [path.name for path in out.parent.iterdir()] == ["page.html"]


def test_a_page_that_cannot_be_written_leaves_the_old_one(lake: Path, tmp_path: Path) -> None:
    out = tmp_path / "page.html"
    out.write_text("the old page")

    def full_disk() -> None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (300_000, 300_000))

    assert_told(run("page", "--out", out, lake=lake, before=full_disk), str(out), "--out")
    assert out.read_text() == "the old page"
    assert [path.name for path in tmp_path.iterdir()] == ["page.html"]


def test_an_output_folder_that_cannot_be_one(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    for out in (tmp_path / "file" / "index.html", tmp_path):
        with pytest.raises(ReportError, match=f"cannot write {out}: .* --out"):
            publish("a page", str(out))
    assert [path.name for path in tmp_path.iterdir()] == ["file"]


def test_the_dbt_docs_go_where_asked(tmp_path: Path) -> None:
    target, out = tmp_path / "target", tmp_path / "site" / "docs.html"
    told = run("docs", "--target", target, "--out", out)
    assert_told(told, str(target / "static_index.html"), "dbt docs generate --static")
    target.mkdir()
    page = "all about ünder\r\nand over\n".encode()
    (target / "static_index.html").write_bytes(page)
    assert run("docs", "--target", target, "--out", out).returncode == 0
    assert out.read_bytes() == page
    (target / "static_index.html").write_bytes(b"\xff")
    told = run("docs", "--target", target, "--out", out)
    assert_told(told, str(target / "static_index.html"), "dbt docs generate --static")
    assert out.read_bytes() == page


def test_the_dbt_docs_are_dbts_target_folders(tmp_path: Path) -> None:
    (tmp_path / "static_index.html").write_text("elsewhere")
    done = subprocess.run(
        [sys.executable, "-m", "reporting", "docs", "--out", tmp_path / "docs.html"],
        cwd=ROOT,
        env=os.environ | {"DBT_TARGET_PATH": str(tmp_path)},
        check=False,
    )
    assert done.returncode == 0
    assert (tmp_path / "docs.html").read_text() == "elsewhere"


def test_a_lake_that_cannot_be_used_is_told_in_one_line(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def stopped(**_: str) -> None:
        raise LakeError("s3://nowhere: there is no bucket nowhere; create it")

    monkeypatch.setattr(__main__, "app", stopped)
    with pytest.raises(SystemExit) as ended:
        __main__.main()
    assert ended.value.code == 1
    assert capsys.readouterr().err == (
        "error: s3://nowhere: there is no bucket nowhere; create it\n"
    )


@pytest.mark.parametrize(
    ("out", "said"),
    [
        ("s3://bucket", "s3://bucket names no object"),
        ("s3://bucket/folder/", "s3://bucket/folder/ names no object"),
        ("s3://bucket/index.html", "no credentials were found"),
    ],
)
def test_a_place_that_takes_no_page(lake: Path, out: str, said: str) -> None:
    assert_told(run("page", "--out", out, lake=lake), f"cannot write {out.split(':')[0]}:", said)


@pytest.mark.parametrize(
    ("out", "said"),
    [
        ("gs://bucket/index.html", "nor s3://bucket/prefix; correct --out"),
        ("s3//bucket/index.html", "did you mean s3://bucket/index.html? Correct --out"),
        ("s3:/bucket/index.html", "did you mean s3://bucket/index.html? Correct --out"),
        ("file:/srv/index.html", "did you mean /srv/index.html? Correct --out"),
    ],
)
def test_an_address_that_is_nearly_one_makes_no_folder(
    lake: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, out: str, said: str
) -> None:
    monkeypatch.chdir(tmp_path)
    before = sorted(tmp_path.iterdir())
    with pytest.raises(ReportError, match=rf"^{re.escape(out)} is neither .*{re.escape(said)}$"):
        publish("<html>", out)
    assert sorted(tmp_path.iterdir()) == before
    assert_told(run("page", "--out", out, lake=lake), said)


def test_an_existing_mart_is_read_at_its_newest_version(tmp_path: Path) -> None:
    lake = write_lake(tmp_path, {})
    write_mart(lake, "users_joined_by_year", [(2015, 3)])
    assert "3 people joined, all in 2015." in run("answers", lake=lake).stdout
