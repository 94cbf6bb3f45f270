"""`python -m deploy.mwaa.upload`: the project, its DAG and MWAA's files to a bucket."""

from __future__ import annotations

import shlex
from collections.abc import Mapping
from typing import Annotated

import typer
from rich.console import Console
from rich.markup import escape

from deploy.mwaa.errors import UploadError
from deploy.mwaa.project import (
    REQUIREMENTS,
    STARTUP,
    Deployment,
    default_settings,
    files,
    parse,
)
from deploy.mwaa.startup import parse_secrets, parse_settings, render
from deploy.mwaa.store import Bucket, Outcome
from ingestion.bucket import connect, explained
from ingestion.errors import PipelineError

app = typer.Typer(add_completion=False, pretty_exceptions_enable=False, rich_markup_mode="markdown")
console = Console(highlight=False, soft_wrap=True)
problems = Console(stderr=True, highlight=False, soft_wrap=True)


@app.command(
    epilog="Examples: `python -m deploy.mwaa.upload my-bucket` · "
    "`python -m deploy.mwaa.upload my-bucket --id 0a60b9a8a831 --dry-run` · "
    "`python -m deploy.mwaa.upload my-bucket --set 'PIPELINE_SOURCES=s3 --uri s3://posts/msk'`"
)
def upload(
    bucket: Annotated[str, typer.Argument(help="The environment's bucket.", metavar="BUCKET")],
    pipeline: Annotated[
        str | None,
        typer.Option("--id", help="The pipeline's id: the DAG is then called {id}_dag."),
    ] = None,
    setting: Annotated[
        list[str] | None,
        typer.Option("--set", help="A variable for Airflow and dbt; repeat it.", metavar="N=VALUE"),
    ] = None,
    settings: Annotated[
        str, typer.Option(help="Several at once, quoted as in a shell.", metavar="TEXT")
    ] = "",
    secret: Annotated[
        list[str] | None,
        typer.Option(
            "--secret",
            help="A variable that workers take from Secrets Manager; repeat it.",
            metavar="N=ID",
        ),
    ] = None,
    delete: Annotated[
        bool, typer.Option("--delete", help="Remove what was uploaded and is gone here.")
    ] = False,
    replace: Annotated[
        bool, typer.Option("--replace", help="Overwrite what somebody else uploaded.")
    ] = False,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Only say what would be done.")
    ] = False,
) -> None:
    """Upload the project and its daily DAG for an MWAA environment, as the files here are.

    Only what changed is written, the DAG last. What others keep in the bucket is left alone.
    Running it again after it was cut short completes it.
    """
    bucket = bucket.strip()
    if not bucket:  # make passes on what it was not given
        raise UploadError(
            "BUCKET is not set; make mwaa-upload BUCKET=my-mwaa-bucket, with the name of the "
            "environment's bucket"
        )
    deployment = Deployment(pipeline)
    chosen = default_settings(bucket, pipeline) | parse_settings(
        [*_split(settings), *(setting or ())]
    )
    secrets = parse_secrets(secret or ())
    address = f"s3://{bucket}"
    with explained(address, bucket):
        target = Bucket(connect(connections=32), bucket, deployment)
        # Whether the bucket can be used is said at once; dbt takes a while.
        target.state()
        with problems.status("parsing the dbt project"):
            manifest = parse()
        found = files(deployment, render(chosen, secrets), manifest)
        if dry_run:
            _, todo = target.look(found, delete=delete, replace=replace)
            outcome = Outcome(todo)
            for key in todo.upload:
                _say("would upload", key, len(found[key].body))
            for key in todo.remove:
                _say("would remove", key, 0)
            for key in todo.refused:
                _say("would refuse", key, 0)
            outcome.size = sum(len(found[key].body) for key in todo.upload)
        else:
            outcome = target.upload(found, delete=delete, replace=replace, say=_say)
    _summarize(address, outcome, deployment, chosen, dry_run=dry_run)


def _split(settings: str) -> list[str]:
    try:
        return shlex.split(settings)
    except ValueError as error:
        raise UploadError(
            f"--settings {settings}: {error}; quote values as in a shell: \"A=b C='d e'\""
        ) from error


def _say(done: str, key: str, size: int) -> None:
    shown = f" ({_bytes(size)})" if size else ""
    console.print(f"{done:<8}  {escape(key)}{shown}")


def _summarize(
    address: str,
    outcome: Outcome,
    deployment: Deployment,
    settings: Mapping[str, str],
    *,
    dry_run: bool,
) -> None:
    todo = outcome.plan
    if dry_run:
        console.print(
            f"{address}: nothing was written; {len(todo.upload):,} files to upload "
            f"({_bytes(outcome.size)}), {len(todo.unchanged):,} unchanged, {len(todo.remove):,} to "
            f"remove, {len(todo.refused):,} of others in the way"
        )
        return
    console.print(
        f"{address}: {len(outcome.uploaded):,} files uploaded ({_bytes(outcome.size)}), "
        f"{len(todo.unchanged):,} unchanged, {len(outcome.removed):,} removed, "
        f"{outcome.seconds:.1f} s"
    )
    if todo.kept:
        console.print(
            f"  {len(todo.kept):,} files that were uploaded are gone here and stay in the bucket, "
            f"such as {escape(todo.kept[0])}; --delete removes them"
        )
    console.print(f"\nThe DAG is {deployment.dag}. Settings of the MWAA environment:")
    console.print(f"  DAGs folder          {address}/dags")
    console.print(f"  requirements file    {address}/{REQUIREMENTS}")
    console.print(f"  startup script file  {address}/{STARTUP}")
    for key in (REQUIREMENTS, STARTUP):
        if key in outcome.uploaded:
            version = outcome.uploaded[key]
            said = f" (version {version})" if version and version != "null" else ""
            console.print(
                f"{key} is new{said}: update the environment with it; DAGs and the project are "
                "taken over by themselves"
            )
    if "LAKE_URI" in settings:
        console.print(f"The lake is {escape(settings['LAKE_URI'])}.")


def _bytes(size: int) -> str:
    return f"{size / 1e6:,.1f} MB" if size >= 1e6 else f"{size / 1e3:,.1f} kB"


def main() -> None:
    """Run the command; failures with a defined outcome become one line and exit code 1."""
    try:
        app(prog_name="python -m deploy.mwaa.upload")
    except PipelineError as error:
        problems.print(f"[bold red]error:[/] {escape(str(error))}")
        raise SystemExit(1) from None
    except KeyboardInterrupt:
        problems.print("interrupted; run the same command again: it completes what is missing")
        raise SystemExit(130) from None


if __name__ == "__main__":
    main()
