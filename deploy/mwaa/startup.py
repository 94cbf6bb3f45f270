"""MWAA's startup script: the template with a deployment's settings and locks.

``python -m deploy.mwaa.startup NAME=VALUE…`` prints it without secrets.
"""

from __future__ import annotations

import re
import shlex
import sys
from collections.abc import Iterable, Mapping
from pathlib import Path
from urllib.parse import urlsplit

from deploy.mwaa.errors import UploadError

ROOT = Path(__file__).resolve().parents[2]
TEMPLATE = Path(__file__).with_name("startup.sh")

_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")
_CREDENTIAL = re.compile(
    r"SECRET|PASSWORD|PASSWD|PASSPHRASE|TOKEN|CREDENTIAL|PRIVATE|(?:ACCESS|API)_?KEY", re.I
)
#: Variables that MWAA sets itself, whatever a startup script exports.
_OF_MWAA = frozenset(
    {"AIRFLOW_HOME", "AIRFLOW_VERSION", "AWS_DEFAULT_REGION", "AWS_REGION", "PYTHONPATH"}
)
#: Variables that the script sets from others.
_OF_SCRIPT = {"PIPELINE_PYTHON": "PIPELINE_DBT_VENV says where the environment lies"}


def parse_settings(pairs: Iterable[str]) -> dict[str, str]:
    """Settings from ``NAME=VALUE``; of two with one name the later counts.

    Args:
        pairs: as on a command line.

    Raises:
        UploadError: one is no such pair, or `check_setting` refuses it.
    """
    settings = {}
    for pair in pairs:
        name, equals, value = pair.partition("=")
        if not equals:
            raise UploadError(f"--set {pair}: there is no value; write NAME=VALUE")
        check_setting(name, value)
        settings[name] = value
    return settings


def parse_secrets(pairs: Iterable[str]) -> dict[str, str]:
    """Ids of secrets by the variables that they become, from ``NAME=ID``.

    Args:
        pairs: as on a command line.

    Raises:
        UploadError: one is no such pair, or its name cannot be set.
    """
    secrets = {}
    for pair in pairs:
        name, _, secret = pair.partition("=")
        if not secret or "\0" in secret:
            raise UploadError(f"--secret {name}: there is no id of a secret; write NAME=ID")
        _check_name("--secret", name)
        secrets[name] = secret
    return secrets


def check_setting(name: str, value: str) -> None:
    """Refuse what cannot be exported, and what whoever reads the bucket must not know.

    Args:
        name: of the variable.
        value: its value.

    Raises:
        UploadError: the name or the value is refused; the message does not say the value.
    """
    _check_name("--set", name)
    if "\0" in value:
        raise UploadError(f"--set {name}: a variable cannot hold a zero byte; remove it")
    if _CREDENTIAL.search(name):
        raise UploadError(
            f"--set {name}: startup.sh is no place for credentials, as all who read the bucket "
            "see it; give the execution role of the environment the access, or keep the secret in "
            f"Secrets Manager and name it there with --secret {name}=ID"
        )
    for word in re.split(r"[\s;,]+", value):
        if _has_password(word):
            raise UploadError(
                f"--set {name}: the address holds a password, and all who read the bucket would "
                f"see it; keep it in Secrets Manager and name it there with --secret {name}=ID"
            )


def _check_name(option: str, name: str) -> None:
    if not _NAME.fullmatch(name):
        raise UploadError(
            f"{option} {name}: that is no name of a variable; use letters, digits and _"
        )
    if name in _OF_MWAA or name.startswith("MWAA_"):
        raise UploadError(f"{option} {name}: MWAA sets it itself; leave it out")
    if name in _OF_SCRIPT:
        raise UploadError(f"{option} {name}: the startup script sets it; {_OF_SCRIPT[name]}")


def _has_password(word: str) -> bool:
    if "://" not in word:
        return False
    try:
        return bool(urlsplit(word).password)
    except ValueError:  # no address after all
        return False


def render(
    settings: Mapping[str, str], secrets: Mapping[str, str] | None = None, root: Path = ROOT
) -> str:
    """The startup script.

    Args:
        settings: variables to export; ``DBT_TARGET`` chooses the lock.
        secrets: ids of secrets by the variables that workers export.
        root: the project's folder, which has the locks.

    Raises:
        UploadError: a lock or the template cannot be read.
    """
    lock = "databricks" if settings.get("DBT_TARGET") == "databricks" else "base"
    # Of what builds packages, only what builds those of the locks.
    build = [
        entry
        for entry in re.split(r"\n(?=\S)", _read(root / "requirements" / "bootstrap.txt"))
        if entry.startswith("setuptools==")
    ]
    return _fill(
        _read(TEMPLATE),
        {
            "settings": "\n".join(
                f"export {name}={shlex.quote(value)}" for name, value in settings.items()
            ),
            "secrets": "\n".join(
                f"pinterest_secret {name} {shlex.quote(secret)}"
                for name, secret in (secrets or {}).items()
            ),
            "build lock": "\n".join(build).rstrip("\n"),
            "lock": _read(root / "requirements" / f"{lock}.txt").rstrip("\n"),
        },
    )


def _fill(template: str, blocks: Mapping[str, str]) -> str:
    """The template with each ``#@ name`` line replaced by the block of that name."""
    lines = []
    for line in template.splitlines():
        name = line.removeprefix("#@ ")
        lines.append(line if name == line else blocks[name])
    return "\n".join(lines) + "\n"


def _read(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except OSError as error:
        raise UploadError(
            f"{path} cannot be read: {error.strerror}; run this from a checkout of the project"
        ) from error


def main(arguments: list[str]) -> None:
    """Print the script with the settings that are given."""
    try:
        sys.stdout.write(render(parse_settings(arguments)))
    except UploadError as error:
        print(f"error: {error}", file=sys.stderr)
        raise SystemExit(1) from None


if __name__ == "__main__":
    main(sys.argv[1:])
