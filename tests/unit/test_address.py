"""Addresses: what is used as it stands, and what would become a folder by mistake."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from ingestion.address import is_bucket, resolve, resolve_path
from ingestion.errors import AddressError


@pytest.mark.parametrize(
    ("given", "used"),
    [
        ("s3://bucket", "s3://bucket"),
        ("s3://bucket/", "s3://bucket"),
        ("s3://bucket//a/b//", "s3://bucket/a/b"),
        ("./lake", "./lake"),
        ("lake/", "lake"),
        ("/", "/"),
        ("/srv/lake//", "/srv/lake"),
        ("../a b/läke", "../a b/läke"),
        ("file:///srv/lake/", "/srv/lake"),
        ("file:///srv/my%20lake", "/srv/my lake"),
        ("file:///", "/"),
        # Folders, though their names have something of an address.
        ("s3", "s3"),
        ("s3/bucket", "s3/bucket"),
        ("files/lake", "files/lake"),
        ("lake//bronze", "lake//bronze"),
        ("./s3//x", "./s3//x"),
        ("2024-02-29T12:00/lake", "2024-02-29T12:00/lake"),
        ("C:/lake", "C:/lake"),
    ],
)
def test_an_address_that_is_used(given: str, used: str) -> None:
    assert resolve(given, "LAKE_URI") == used
    assert is_bucket(used) is given.startswith("s3://")


@pytest.mark.parametrize(
    ("given", "meant"),
    [
        ("s3//x", "s3://x"),
        ("s3:/x", "s3://x"),
        ("s3:x/lake", "s3://x/lake"),
        ("s3:\\\\x\\lake", "s3://x\\lake"),
        ("S3://x", "s3://x"),
        ("S3:/x", "s3://x"),
        ("s3a://x/lake", "s3://x/lake"),
        ("s3n://x/lake", "s3://x/lake"),
        ("s3a//x", "s3://x"),
        (" s3://x", "s3://x"),
        ("'s3://x'", "s3://x"),
        ('"s3://x"', "s3://x"),
        ("arn:aws:s3:::x/lake", "s3://x/lake"),
        ("arn:aws-cn:s3:::x", "s3://x"),
        ("https://x.s3.eu-west-1.amazonaws.com/lake", "s3://x/lake"),
        ("https://my.bucket.s3.amazonaws.com", "s3://my.bucket"),
        ("https://s3.eu-west-1.amazonaws.com/x/lake/", "s3://x/lake"),
        ("https://x.s3-us-west-2.amazonaws.com/lake", "s3://x/lake"),
        ("file:/x", "/x"),
        ("file:x/y", "/x/y"),
        ("file://x/y", "/x/y"),
        ("file://localhost/x", "/x"),
        ("File:///x", "/x"),
        ("file//x", "/x"),
    ],
)
def test_a_mistyped_address_names_what_was_meant(given: str, meant: str) -> None:
    with pytest.raises(AddressError) as refused:
        resolve(given, "LAKE_URI")
    assert str(refused.value) == (
        f"{given} is neither a path of this machine nor s3://bucket/prefix; did you mean {meant}? "
        "Correct LAKE_URI"
    )
    assert resolve(meant, "LAKE_URI") == meant


@pytest.mark.parametrize(
    "given",
    [
        "https://example.com/lake",
        "http://127.0.0.1:9000/bucket",
        "https://[x",
        "https//example.com",
        "gs://x",
        "gs:/x",
        "gcs:x",
        "abfss://container@account.dfs.core.windows.net/lake",
        "az://x",
        "hdfs://host:8020/lake",
        "dbfs:/lake",
        "ftp://host/lake",
        "mysql+pymysql://user@host/x",
        "./a://b",
        "s3a://",
        "s3:",
        "file:",
    ],
)
def test_an_address_of_another_kind_is_refused(given: str) -> None:
    with pytest.raises(AddressError) as refused:
        resolve(given, "--uri")
    assert str(refused.value) == (
        f"{given} is neither a path of this machine nor s3://bucket/prefix; correct --uri"
    )


@pytest.mark.parametrize("given", ["", " ", "\t\n"])
def test_no_address_is_not_the_root_folder(given: str) -> None:
    with pytest.raises(AddressError, match="the address is empty; set LAKE_URI to a path or s3"):
        resolve(given, "LAKE_URI")


@pytest.mark.parametrize("given", ["s3://", "s3:///lake"])
def test_an_address_without_a_bucket(given: str) -> None:
    said = f"{given} names no bucket; write s3://bucket or s3://bucket/prefix in LAKE_URI"
    with pytest.raises(AddressError, match=f"^{re.escape(said)}$"):
        resolve(given, "LAKE_URI")


def test_a_path_where_no_bucket_will_do() -> None:
    assert resolve_path("file:///x/y/", "--out") == Path("/x/y")
    with pytest.raises(AddressError, match=r"^s3://x: only a path of this machine .* --out"):
        resolve_path("s3://x", "--out")
    with pytest.raises(AddressError, match="did you mean s3://x"):
        resolve_path("s3:/x", "--out")
