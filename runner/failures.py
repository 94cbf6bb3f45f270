"""What failed in a dbt command, and which sources are late, in one sentence."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from typing import Any

#: How dbt writes that there is no row, so that nothing has ever landed.
NEVER = 1
#: So many names are said, so many characters of a message.
_NAMES, _LONGEST = 5, 300


def what_failed(results: Sequence[Any]) -> str:
    """What went wrong in a command, in one sentence.

    Args:
        results: dbt's, of every node.

    Returns:
        The sentence; an empty text where nothing went wrong.
    """
    failures = ("error", "fail", "runtime error", "partial success")
    wrong = [result for result in results if str(result.status) in failures]
    stale = [result for result in wrong if hasattr(result, "max_loaded_at")]
    others = [result for result in wrong if not hasattr(result, "max_loaded_at")]
    return "; ".join(filter(None, [_failed(others, results), _landed_late(stale, "error_after")]))


def what_warns(results: Sequence[Any]) -> str:
    """Which sources are late, but not so late that it is a failure.

    Args:
        results: dbt's, of every node.

    Returns:
        The sentence; an empty text where none is.
    """
    late = [one for one in results if str(one.status) == "warn" and hasattr(one, "max_loaded_at")]
    return _landed_late(late, "warn_after")


def _failed(wrong: Sequence[Any], results: Sequence[Any]) -> str:
    """Which nodes failed; of one, why."""
    if not wrong:
        return ""
    if len(wrong) == 1:
        return f"{_called(wrong[0].node)} failed: {_why(wrong[0].message)}"
    kinds = {str(result.node.resource_type) for result in wrong}
    kind = kinds.pop() if len(kinds) == 1 else ""
    of = [result for result in results if not kind or str(result.node.resource_type) == kind]
    what = f" {kind.replace('_', ' ')}s" if kind else ""
    names = [_called(result.node) for result in wrong]
    more = f" and {len(names) - _NAMES} more" if len(names) > _NAMES else ""
    return f"{len(wrong)} of {len(of)}{what} failed: {', '.join(names[:_NAMES])}{more}"


def _why(message: str | None) -> str:
    """The first line of a message that says more than where it happened."""
    said = "".join(_without_headings(message or "")[:1])
    if len(said) > _LONGEST:
        said = f"{said[:_LONGEST]}…"
    return said or "dbt does not say why"


def what_stopped(error: BaseException) -> str:
    """What stopped dbt, on one line, without the headings that dbt puts over it."""
    return " ".join(_without_headings(str(error))) or type(error).__name__


def _without_headings(message: str) -> list[str]:
    """The lines of a message; a heading is left out where anything follows it."""
    lines = [" ".join(line.split()) for line in message.splitlines() if line.strip()]
    # Such as "Runtime Error in model stg_pin (its file)", and "Runtime Error" below it.
    while len(lines) > 1 and re.fullmatch(r"[A-Z]\w+ Error( in .+ \(.+\))?", lines[0]):
        del lines[0]
    return lines


def _landed_late(late: Sequence[Any], threshold: str) -> str:
    """In which tables nothing has landed for longer than a threshold, and what to do."""
    if not late:
        return ""
    never = [result for result in late if result.max_loaded_at.year == NEVER]
    since = [result for result in late if result.max_loaded_at.year != NEVER]
    said = []
    if never:
        said.append(f"nothing has ever landed in {_and(_called(one.node) for one in never)}")
    if since:
        limits = {_limit(one, threshold) for one in since}
        each = len(limits) > 1
        told = ", and ".join(_since(one, threshold if each else "") for one in since)
        most = "" if each else f"; more than {limits.pop()} is too long"
        said.append(f"nothing has landed in {told}{most}")
    files = _and(dict.fromkeys(one.node.original_file_path for one in late))
    return (
        f"{', and '.join(said)}. See why landing brings nothing new (ingest status), or change "
        f"the freshness in {files}"
    )


def _since(result: Any, threshold: str) -> str:
    """A source's table, since when nothing has landed in it, and the threshold if one is named."""
    loaded = result.max_loaded_at
    hours = round(result.age / 3600)
    ago = _many(round(hours / 24), "day") if hours >= 72 else _many(hours, "hour")
    said = f"{_called(result.node)} since {loaded.day} {loaded:%B %Y %H:%M} UTC, {ago} ago"
    return f"{said} (more than {_limit(result, threshold)} is too long)" if threshold else said


def _limit(result: Any, threshold: str) -> str:
    limit = getattr(result.node.freshness, threshold)
    return _many(limit.count, str(limit.period))


def _many(count: int, what: str) -> str:
    return f"{count} {what}" if count == 1 else f"{count} {what}s"


def _called(node: Any) -> str:
    source = getattr(node, "source_name", "")
    return f"{source}.{node.name}" if source else str(node.name)


def _and(names: Iterable[str]) -> str:
    every = list(names)
    return " and ".join([", ".join(every[:-1]), every[-1]] if every[1:] else every)
