"""What variables make of a client of Kafka, and what is said of those that make no sense."""

from __future__ import annotations

from pathlib import Path

import pytest
from botocore.credentials import Credentials
from botocore.session import Session
from kafka.errors import SaslAuthenticationFailedError

from ingestion.errors import SourceError
from ingestion.sources.kafka import client_settings

PLAIN = {"KAFKA_SECURITY_PROTOCOL": "SASL_SSL", "KAFKA_SASL_MECHANISM": "PLAIN"}
USER = {"KAFKA_SASL_USERNAME": "ann", "KAFKA_SASL_PASSWORD": "secret"}
IAM = {"KAFKA_SASL_MECHANISM": "AWS_MSK_IAM", "AWS_REGION": "eu-west-1"}


def test_without_any_variable() -> None:
    assert client_settings({}) == {
        "bootstrap_servers": ["127.0.0.1:9092"],
        "security_protocol": "PLAINTEXT",
    }
    assert client_settings({"KAFKA_SASL_MECHANISM": "", "KAFKA_SSL_CAFILE": ""}) == (
        client_settings({})
    )


def test_several_servers() -> None:
    settings = client_settings({"KAFKA_BOOTSTRAP_SERVERS": "a:1, b:2,"})
    assert settings["bootstrap_servers"] == ["a:1", "b:2"]


@pytest.mark.parametrize("mechanism", ["PLAIN", "scram-sha-256", "SCRAM-SHA-512"])
def test_a_user_and_a_password(mechanism: str) -> None:
    settings = client_settings(PLAIN | USER | {"KAFKA_SASL_MECHANISM": mechanism})
    assert settings["security_protocol"] == "SASL_SSL"
    assert settings["sasl_mechanism"] == mechanism.upper()
    assert (settings["sasl_plain_username"], settings["sasl_plain_password"]) == ("ann", "secret")


def test_certificates(tmp_path: Path) -> None:
    files = {name: tmp_path / name for name in ("cafile", "certfile", "keyfile", "crlfile")}
    for file in files.values():
        file.touch()
    settings = client_settings(
        {f"KAFKA_SSL_{name.upper()}": str(file) for name, file in files.items()}
        | {"KAFKA_SECURITY_PROTOCOL": "SSL", "KAFKA_SSL_PASSWORD": "x"}
    )
    assert {name: settings[f"ssl_{name}"] for name in files} == {
        name: str(file) for name, file in files.items()
    }
    assert (settings["ssl_password"], settings["ssl_check_hostname"]) == ("x", True)
    unchecked = {"KAFKA_SECURITY_PROTOCOL": "ssl", "KAFKA_SSL_CHECK_HOSTNAME": "False"}
    assert client_settings(unchecked)["ssl_check_hostname"] is False


def test_amazons_identities(monkeypatch: pytest.MonkeyPatch) -> None:
    settings = client_settings(IAM)
    assert (settings["security_protocol"], settings["sasl_mechanism"]) == (
        "SASL_SSL",
        "OAUTHBEARER",
    )
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "key")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "secret")
    provider = settings["sasl_oauth_token_provider"]
    assert len(provider.token()) > 200
    assert provider.extensions() == {}


def test_amazons_identities_that_are_not_there(monkeypatch: pytest.MonkeyPatch) -> None:
    provider = client_settings(IAM)["sasl_oauth_token_provider"]
    monkeypatch.setattr(Session, "get_credentials", lambda _: None)
    with pytest.raises(SaslAuthenticationFailedError, match="no AWS credentials are found"):
        provider.token()
    monkeypatch.setattr(Session, "get_credentials", lambda _: Credentials("", ""))
    with pytest.raises(SaslAuthenticationFailedError, match="Credentials can not be empty"):
        provider.token()


@pytest.mark.parametrize(
    ("environ", "said"),
    [
        ({"KAFKA_BOOTSTRAP_SERVERS": " ,"}, "KAFKA_BOOTSTRAP_SERVERS is ' ,'; write HOST:PORT,"),
        ({"KAFKA_BOOTSTRAP_SERVERS": "b:1,b:x"}, "_SERVERS is 'b:1,b:x'; write HOST:PORT,"),
        ({"KAFKA_BOOTSTRAP_SERVERS": "http://b:1"}, "_SERVERS is 'http://b:1'; write HOST:PORT,"),
        ({"KAFKA_SECURITY_PROTOCOL": "TLS"}, "is TLS, not PLAINTEXT, SSL, SASL_PLAINTEXT or SASL_"),
        ({"KAFKA_SASL_MECHANISM": "PLAIN"}, "PLAINTEXT asks for no user; set the latter to SASL_"),
        ({"KAFKA_SECURITY_PROTOCOL": "SASL_SSL"}, "MECHANISM is not set; it must be PLAIN, SCRAM"),
        (PLAIN | {"KAFKA_SASL_MECHANISM": "GSSAPI"}, "is GSSAPI; it must be .* or AWS_MSK_IAM"),
        (PLAIN, "PLAIN needs a username; set KAFKA_SASL_USERNAME"),
        (PLAIN | {"KAFKA_SASL_USERNAME": "a"}, "needs a password; set KAFKA_SASL_PASSWORD"),
        (IAM | {"AWS_REGION": ""}, "AWS_MSK_IAM needs the cluster's region; set AWS_REGION"),
        (IAM | {"KAFKA_SECURITY_PROTOCOL": "SASL_PLAINTEXT"}, "AWS_MSK_IAM needs .* SASL_SSL, not"),
        (
            {"KAFKA_SECURITY_PROTOCOL": "SSL", "KAFKA_SSL_CAFILE": "/nowhere"},
            "KAFKA_SSL_CAFILE is /nowhere, which is no file",
        ),
        (
            {"KAFKA_SECURITY_PROTOCOL": "SSL", "KAFKA_SSL_CHECK_HOSTNAME": "yes"},
            "CHECK_HOSTNAME is yes, not true or false",
        ),
    ],
)
def test_variables_that_make_no_sense(environ: dict[str, str], said: str) -> None:
    with pytest.raises(SourceError, match=said):
        client_settings(environ)
