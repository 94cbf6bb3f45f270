"""The daily DAG: land, check freshness, build and test every model, publish, maintain.

One file for a laptop and for MWAA; what differs comes from the environment:

``PIPELINE_SOURCES``    what lands: ``ingest`` commands, separated by ``;``. Templates such as
                        ``{{ ds }}`` are filled in for each run. Default: ``s3 --uri sink``.
``PIPELINE_DBT_MODE``   ``watcher`` (default): one dbt process, a task a model that watches it.
                        ``local``: a dbt process a task.
``PIPELINE_PYTHON``     the interpreter of the environment that has dbt; default: Airflow's own.
``PIPELINE_PUBLISH``    where the report and the dbt docs go: a folder or ``s3://bucket/prefix``.
``PIPELINE_NOTIFIER``   who is told of failures: the dotted name of an Airflow notifier, or of a
                        function that takes the context; ``PIPELINE_NOTIFIER_ARGS`` its arguments
                        as JSON.
``PIPELINE_RETRIES``, ``PIPELINE_RETRY_SECONDS``  how often a task is tried again, and after how
                        many seconds the first time.
``PIPELINE_HOME``       the project's folder; default: that of this deployment beside this file, or
                        the one above it.
``DBT_TARGET``, ``LAKE_URI``, ``PIPELINE_ID`` and the rest mean what they mean on a command line.

The DAG is called as its file. A file that is called ``{id}_dag.py`` works for the deployment of
that id.
"""

from __future__ import annotations

import json
import logging
import os
import re
import shlex
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from airflow import __version__ as airflow_version
from airflow.providers.standard.hooks.subprocess import SubprocessHook
from airflow.sdk import DAG, Asset, BaseOperator, Context, Param, TaskGroup
from cosmos.airflow.graph import generate_task_or_group
from cosmos.airflow.task_group import DbtTaskGroup
from cosmos.config import ExecutionConfig, ProfileConfig, ProjectConfig, RenderConfig
from cosmos.constants import (
    PRODUCER_WATCHER_TASK_ID,
    DbtResourceType,
    ExecutionMode,
    InvocationMode,
    LoadMode,
    TestBehavior,
)
from cosmos.dbt.graph import DbtNode
from cosmos.operators._watcher.state import is_dbt_node_status_success, is_producer_task_terminated
from cosmos.operators.watcher import (
    DbtProducerWatcherOperator,
    DbtRunWatcherOperator,
    DbtTestWatcherOperator,
)
from packaging import version

try:
    from airflow.sdk.exceptions import AirflowException, AirflowSkipException
    from airflow.sdk.module_loading import import_string
except ImportError:  # Airflow 3.0 and 3.1
    from airflow.exceptions import AirflowException, AirflowSkipException
    from airflow.utils.module_loading import import_string

log = logging.getLogger(__name__)

DAG_ID = Path(__file__).stem
#: How Cosmos turns the manifest into tasks. Assets are ours: they are updated after the tests.
RENDERED: dict[str, Any] = {
    "load_method": LoadMode.DBT_MANIFEST,
    "test_behavior": TestBehavior.AFTER_EACH,
    "should_detach_multiple_parents_tests": True,
    "emit_datasets": False,
}


def _home(file: Path, environ: Mapping[str, str]) -> Path:
    """The project's folder.

    Args:
        file: this one, which lies in ``dags/`` of the project, or beside a folder that is called
            as the deployment and holds a copy of the project.
        environ: may say it.
    """
    if said := environ.get("PIPELINE_HOME"):
        return Path(said)
    deployed = file.with_name(file.stem.removesuffix("_dag"))
    return deployed if (deployed / "dbt_project.yml").is_file() else file.parent.parent


HOME = _home(Path(__file__).resolve(), os.environ)
PYTHON = os.environ.get("PIPELINE_PYTHON") or sys.executable
TARGET = os.environ.get("DBT_TARGET") or "local"
MODE = ExecutionMode(os.environ.get("PIPELINE_DBT_MODE") or "watcher")
#: Each wait is twice the one before it; Airflow 3.0 and 3.1 ask only whether.
BACKOFF = 2.0 if version.parse(airflow_version) >= version.parse("3.2") else True
#: Whether each model and each test has a dbt process of its own.
SINGLE = MODE is not ExecutionMode.WATCHER
SOURCES = [
    source.strip()
    for source in (os.environ.get("PIPELINE_SOURCES") or "s3 --uri sink").split(";")
    if source.strip()
]
PUBLISH = (os.environ.get("PIPELINE_PUBLISH") or "report").rstrip("/")
#: What is no path: an address, or one that is mistyped, which the commands refuse with a reason.
ADDRESS = re.compile(r"[a-z][a-z0-9+.-]+:/|s3[an]?(:|//)|.*://", re.IGNORECASE)


def environment(home: Path, environ: Mapping[str, str], dag_id: str) -> dict[str, str]:
    """The variables that the project's commands need besides those of the worker.

    Args:
        home: the project's folder; a lake in a folder lies below it.
        environ: the worker's variables.
        dag_id: names the deployment where it ends in ``_dag``.
    """
    lake = environ.get("LAKE_URI") or "lake"
    return {
        "LAKE_URI": lake if ADDRESS.match(lake) else str(home / lake),
        "PYTHONPATH": str(home),
    } | (
        {"PIPELINE_ID": dag_id.removesuffix("_dag")}
        if dag_id.endswith("_dag") and not environ.get("PIPELINE_ID")
        else {}
    )


class PipelineOperator(BaseOperator):
    """Runs commands of this project, one after another, in the environment that has dbt.

    Args:
        commands: each the arguments of ``python``, as on a command line; templates are filled in.
    """

    template_fields = ("commands",)
    ui_color = "#e8f0fe"

    def __init__(self, *, commands: list[str], **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.commands = commands
        self._hook: SubprocessHook | None = None

    def execute(self, context: Context) -> None:  # noqa: ARG002
        """Run them.

        Raises:
            AirflowException: one failed; the message is the last that it said.
        """
        self._hook = SubprocessHook()
        env = {**os.environ, **environment(HOME, os.environ, self.dag_id)}
        # What a command says is in the log when it says it, and in the order it says it.
        env["PYTHONUNBUFFERED"] = "1"
        for command in self.commands:
            result = self._hook.run_command([PYTHON, *shlex.split(command)], env, cwd=str(HOME))
            if result.exit_code:
                said = result.output.strip() or "it said nothing"
                raise AirflowException(f"{command}: {said} (exit code {result.exit_code})")

    def on_kill(self) -> None:
        """End the command with the task."""
        if self._hook:
            self._hook.send_sigterm()


class LandOperator(PipelineOperator):
    """Lands one source, unless the run was started without it.

    Args:
        source: arguments of ``ingest``.
    """

    template_fields = ("source",)

    def __init__(self, *, source: str, **kwargs: Any) -> None:
        super().__init__(commands=[], **kwargs)
        self.source = source
        self.configured = source

    def execute(self, context: Context) -> None:
        """Land it; what has landed does not land again."""
        if self.configured not in context["params"]["sources"]:
            raise AirflowSkipException(f"this run was started without {self.configured}")
        self.commands = [f"-m ingestion {self.source}"]
        super().execute(context)


def failure(context: Mapping[str, Any]) -> str:
    """One sentence about a failure.

    Args:
        context: Airflow's, of a task or of a run.
    """
    run = context.get("run_id", "a run")
    instance = context.get("task_instance") or context.get("ti")
    if context.get("reason"):
        return f"{DAG_ID}, {run}: {context['reason']}"
    task = getattr(instance, "task_id", "a task")
    if getattr(instance, "map_index", -1) >= 0:
        task = f"{task}[{instance.map_index}]"
    tries = f"after {instance.try_number} tries" if getattr(instance, "try_number", 1) > 1 else ""
    error = context.get("exception") or "it was ended from outside"
    return f"{DAG_ID}, {run}: {task} failed {tries}".rstrip() + f": {error}"


def notify(context: Context) -> None:
    """Say that something failed in the log, and to the notifier where there is one."""
    log.error("%s", failure(context))
    if name := os.environ.get("PIPELINE_NOTIFIER"):
        notifier = import_string(name)
        arguments = json.loads(os.environ.get("PIPELINE_NOTIFIER_ARGS") or "{}")
        # A notifier is made first and called then; a function is called.
        (notifier(**arguments) if isinstance(notifier, type) else notifier)(context)


def notify_of_run(context: Context) -> None:
    """The same where no task failed: the run took too long."""
    if context.get("reason") == "timed_out":
        notify(context)


def gates(nodes: Mapping[str, DbtNode]) -> Iterator[tuple[str, str]]:
    """Tests of several models, and the models that wait for them.

    A model waits for a test if it descends from all that the test looks at; so says dbt's own
    build. Where one waits, what descends from it need not be told.

    Args:
        nodes: by their unique ids.

    Yields:
        The id of a test, the id of a model.
    """
    ancestors: dict[str, set[str]] = {}

    def above(name: str) -> set[str]:
        if name not in ancestors:
            parents = nodes[name].depends_on if name in nodes else []
            ancestors[name] = set(parents).union(*(above(parent) for parent in parents))
        return ancestors[name]

    models = {name for name, node in nodes.items() if node.resource_type is DbtResourceType.MODEL}
    for test, node in nodes.items():
        if node.resource_type is DbtResourceType.TEST and len(node.depends_on) > 1:
            waiting = {name for name in models if set(node.depends_on) <= above(name)}
            for model in sorted(name for name in waiting if not waiting & above(name)):
                yield test, model


@contextmanager
def as_first_try(instance: Any) -> Iterator[None]:
    """Cosmos goes other ways at later tries; ours are its own business."""
    tries, instance.try_number = instance.try_number, 1
    try:
        yield
    finally:
        instance.try_number = tries


class BuildOperator(DbtProducerWatcherOperator):
    """The one dbt process that the models' tasks watch. When it is tried again it builds again.

    Cosmos would leave it out and have each watching task start a dbt process of its own. A build
    that was killed can be repeated as it is: a model reads what it has not, and those who watch go
    on watching.
    """

    def execute(self, context: Context, **kwargs: Any) -> Any:
        """Build; what it says of each model is what the models' tasks wait for."""
        instance: Any = context["ti"]
        instance.xcom_push(key=BUILT_FOR, value=_cleared(context))
        with as_first_try(instance):
            return super().execute(context, **kwargs)


#: Under this the building task says how often tasks of its run had been cleared when it began.
BUILT_FOR = "built_for"


def _cleared(context: Context) -> int:
    return int(context["dag_run"].clear_number or 0)


def course(*, first: bool, ended: bool, same: bool, passed: bool) -> str:
    """What a watching task does when it looks.

    Args:
        first: whether this is its first try.
        ended: whether the building task is over.
        same: whether that began since tasks of the run were last cleared. If not, what it says is
            of the tables as they were before.
        passed: whether it has said that the model was built, or that the tests passed.

    Returns:
        ``read`` what the building task says, ``wait`` until it says it, or ``run`` dbt for this
        model alone.
    """
    if same:
        return "read" if first or passed or not ended else "run"
    if ended:
        return "run"
    return "read" if first else "wait"


class Watching:
    """A task that watches the build, be it cleared with the building task or without it.

    Cosmos has every task that was cleared start a dbt process once the build is over, and takes
    what an earlier build said for this one's before it.
    """

    def poke(self: Any, context: Context) -> bool:
        """Whether the model, or its tests, are done.

        Raises:
            AirflowException: they failed.
        """
        instance: Any = context["ti"]
        first = instance.try_number == 1
        if first and not _cleared(context):
            return bool(super().poke(context))  # type: ignore[misc]
        status = self._get_node_status(instance, context)
        way = course(
            first=first,
            ended=is_producer_task_terminated(self._get_producer_task_status(context)),
            same=instance.xcom_pull(self.producer_task_id, key=BUILT_FOR) == _cleared(context),
            passed=is_dbt_node_status_success(status),
        )
        if way == "run":
            return bool(self._fallback_to_non_watcher_run(instance.try_number, context))
        if way == "wait":
            return False
        with as_first_try(instance):
            return bool(super().poke(context))  # type: ignore[misc]


class RunWatcher(Watching, DbtRunWatcherOperator):
    """A model's task."""


class TestWatcher(Watching, DbtTestWatcherOperator):
    """The task of a model's tests."""

    def _fallback_to_non_watcher_run(self, try_number: int, context: Context) -> bool:  # noqa: ARG002
        # Not the tests that look at other models too: these are to be built again, perhaps.
        name = DbtNode.get_resource_name_from_unique_id(self.model_unique_id)
        self.build_and_run_cmd(
            context, cmd_flags=["--select", name, "--indirect-selection", "cautious"]
        )
        return True


#: Cosmos has no place to name classes of one's own.
OURS: dict[type, type] = {
    DbtProducerWatcherOperator: BuildOperator,
    DbtRunWatcherOperator: RunWatcher,
    DbtTestWatcherOperator: TestWatcher,
}


def in_layers() -> Callable[..., Any]:
    """A converter for Cosmos that puts a model's tasks into the group of its layer."""
    layers: dict[str, TaskGroup] = {}

    def convert(*, dag: DAG, task_group: TaskGroup, node: DbtNode, **how: Any) -> Any:
        layer = node.fqn[-2]
        if layer not in layers:
            layers[layer] = TaskGroup(layer, dag=dag, parent_group=task_group)
        return generate_task_or_group(
            dag=dag,
            task_group=layers[layer],
            node=node,
            task_args=how["task_args"],
            render_config=RenderConfig(**RENDERED),
            node_converters={},
            execution_mode=how["execution_mode"],
            test_indirect_selection=how["test_indirect_selection"],
            detached_from_parent=how["detached_from_parent"],
        )

    return convert


def complete(dbt: DbtTaskGroup) -> None:
    """Add what Cosmos leaves out: what waits for tests of several models, and who reports these."""
    nodes = dbt.dbt_graph.filtered_nodes
    for test, model in gates(nodes):
        dbt.tasks_map[test] >> dbt.tasks_map[model]
    for task in dbt.iter_tasks():
        task.__class__ = OURS.get(type(task), type(task))
    if producer := dbt.tasks_map.get(PRODUCER_WATCHER_TASK_ID):
        # The watcher reports a model's tests together, when the last has finished. Tests of several
        # models have tasks of their own: the models must not wait for them.
        own = {name for name in dbt.tasks_map if name.startswith("test.")}
        for tests in producer.tests_per_model.values():
            tests[:] = [test for test in tests if test not in own]
        producer.tests_per_model.update({test: [test] for test in own})


def marts(dbt: DbtTaskGroup) -> Iterator[tuple[str, Any]]:
    """The marts' names, and the tasks that are done when their tests have passed."""
    for name, node in dbt.dbt_graph.filtered_nodes.items():
        if node.resource_type is DbtResourceType.MODEL and node.fqn[-2] == "marts":
            group: Any = dbt.tasks_map[name]
            yield node.name, group.children[f"{group.group_id}.test"]


def tests(dbt: DbtTaskGroup) -> list[Any]:
    """What the models' tasks and their tests end with."""
    return [task for task in dbt.get_leaves() if PRODUCER_WATCHER_TASK_ID not in task.task_id]


with DAG(
    DAG_ID,
    description="Lands posts, builds and tests every model, answers the eight questions",
    doc_md=f"""\
### The day

1. **land** lands every configured source: {", ".join(f"`{source}`" for source in SOURCES)}.
   What has landed does not land again.
2. **freshness** stops here, in plain words, when nothing has landed for too long.
3. **dbt** builds and tests model after model. A test that fails stops what depends on its model,
   and nothing else.
4. **report** and **docs** are published to `{PUBLISH}`; **maintain** compacts and cleans the lake,
   whatever happened before it.

Every task can be run again, alone or with all that follows, today or later: the tables end up the
same. Each mart that passed its tests updates the asset `dbt://{DAG_ID}/marts/…`.
""",
    schedule="@daily",
    start_date=datetime(2018, 1, 1, tzinfo=UTC),
    catchup=False,
    max_active_runs=1,
    dagrun_timeout=timedelta(hours=6),
    default_args={
        "owner": "pinterest",
        "retries": int(os.environ.get("PIPELINE_RETRIES") or 2),
        "retry_delay": timedelta(seconds=float(os.environ.get("PIPELINE_RETRY_SECONDS") or 60)),
        "retry_exponential_backoff": BACKOFF,
        "max_retry_delay": timedelta(minutes=30),
        "execution_timeout": timedelta(hours=2),
        "on_failure_callback": notify,
    },
    on_failure_callback=notify_of_run,
    params={
        "full_refresh": Param(
            False,
            type="boolean",
            title="Full refresh",
            description="Build the tables that grow from all that has landed.",
        ),
        "sources": Param(
            SOURCES,
            type="array",
            items={"type": "string", "enum": SOURCES},
            examples=SOURCES,
            title="Sources",
            description="Which sources to land; none builds what has landed before.",
        ),
    },
    tags=["pinterest", "dbt"],
) as dag:
    land = LandOperator.partial(
        task_id="land",
        map_index_template="{{ task.configured }}",
        doc_md="Lands a source, with its offsets in the same commit. Safe to run again.",
    ).expand(source=SOURCES)

    freshness = PipelineOperator(
        task_id="freshness",
        commands=[
            "-m dbt_lake source freshness"
            # Where each model has a process, nobody else tests what has landed.
            + (" , test --select source:* --indirect-selection cautious" if SINGLE else "")
        ],
        trigger_rule="none_failed",
        doc_md="Fails when nothing has landed for longer than the sources' freshness allows.",
    )

    dbt = DbtTaskGroup(
        group_id="dbt",
        project_config=ProjectConfig(
            manifest_path=HOME / "target" / "manifest.json",
            project_name="pinterest",
            # Each dbt process has a target folder of its own, in the copy that Cosmos makes.
            env_vars={
                **environment(HOME, os.environ, DAG_ID),
                "DBT_TARGET_PATH": "target",
                "DBT_LOG_PATH": "logs",
                # They test the models' code on rows of their own, not what has landed.
                "DBT_EXCLUDE_RESOURCE_TYPES": "unit_test",
            },
            install_dbt_deps=False,
        ),
        profile_config=ProfileConfig(
            profile_name="pinterest",
            target_name=TARGET,
            profiles_yml_filepath=HOME / "profiles.yml",
        ),
        execution_config=ExecutionConfig(
            execution_mode=MODE,
            invocation_mode=InvocationMode.SUBPROCESS,
            dbt_executable_path=Path(PYTHON).parent / "dbt",
            dbt_project_path=HOME,
        ),
        render_config=RenderConfig(
            **RENDERED, node_converters={DbtResourceType.MODEL: in_layers()}
        ),
        operator_args={
            "full_refresh": "{{ params.full_refresh }}",
            "append_env": True,
        }
        # Looking takes a moment of a process that is there; being called back takes a process. A
        # dozen look at a time, each by several requests to Airflow.
        | ({} if SINGLE else {"deferrable": False, "poke_interval": 2}),
    )
    complete(dbt)
    for mart, tested in marts(dbt):
        tested.add_outlets([Asset(f"dbt://{DAG_ID}/marts/{mart}")])

    report = PipelineOperator(
        task_id="report",
        commands=[f"-m reporting page --out {shlex.quote(f'{PUBLISH}/index.html')}"],
        doc_md="The answers as one page.",
    )
    docs = PipelineOperator(
        task_id="docs",
        commands=[
            "-m dbt_lake docs generate --static",
            f"-m reporting docs --out {shlex.quote(f'{PUBLISH}/docs.html')}",
        ],
        doc_md="The dbt docs as one page.",
    )
    maintain = PipelineOperator(
        task_id="maintain",
        commands=["-m ingestion maintain --all"],
        trigger_rule="all_done",
        doc_md="Compaction, checkpoints, removal of files out of use. Runs whatever happened.",
    )

    land >> freshness >> dbt >> maintain
    # Not for the building task: where it failed, what failed may have been mended and run since.
    for last in tests(dbt):
        last >> [report, docs]
