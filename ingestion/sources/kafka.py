"""Kafka topics, read from where the lake's tables stand.

Partitions are assigned, not negotiated in a group: where reading begins is told by what landed, and
whoever reads what another reads as well has it refused by the lake. A group's offsets are written
for displays of the lag; failing to write them fails nothing.
"""

from __future__ import annotations

import re
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ingestion.errors import SourceError
from ingestion.lake import Origin
from ingestion.landing import Chunk
from ingestion.offsets import Offsets
from ingestion.sources import kafka_topics
from ingestion.sources.kafka_topics import SOURCE, Generation, Start, Stored, Topic

if TYPE_CHECKING:
    from kafka import TopicPartition

    from ingestion.sources.kafka_cluster import Cluster
    from ingestion.sources.kafka_runs import Run

DEFAULT_SERVERS = "127.0.0.1:9092"

#: Seconds between two looks at the topics while records are read.
LOOK_SECONDS = 1.0
#: For so many seconds the end waits for a broker that keeps the group's offsets.
GROUP_SECONDS = 3.0
#: For so many seconds nothing may come of what is there before reading to the end gives up.
STALLED_SECONDS = 30.0

#: A name or an address, one of IPv6 in brackets, and a port; without one it is 9092.
_SERVER = re.compile(r"([^\s:/\[\]]+|\[[0-9a-fA-F:.%]+\])(:[0-9]{1,5})?")
_PROTOCOLS = ("PLAINTEXT", "SSL", "SASL_PLAINTEXT", "SASL_SSL")
_PASSWORD_MECHANISMS = ("PLAIN", "SCRAM-SHA-256", "SCRAM-SHA-512")
_IAM = "AWS_MSK_IAM"
_FILES = {
    "KAFKA_SSL_CAFILE": "ssl_cafile",
    "KAFKA_SSL_CERTFILE": "ssl_certfile",
    "KAFKA_SSL_KEYFILE": "ssl_keyfile",
    "KAFKA_SSL_CRLFILE": "ssl_crlfile",
}


def client_settings(environ: Mapping[str, str]) -> dict[str, Any]:
    """What a client of kafka-python, consumer or producer, needs to reach the brokers.

    Args:
        environ: the variables ``KAFKA_BOOTSTRAP_SERVERS``, ``KAFKA_SECURITY_PROTOCOL``,
            ``KAFKA_SASL_MECHANISM``, ``_USERNAME`` and ``_PASSWORD``, ``KAFKA_SSL_CAFILE``,
            ``_CERTFILE``, ``_KEYFILE``, ``_CRLFILE``, ``_PASSWORD`` and ``_CHECK_HOSTNAME``, and
            for ``AWS_MSK_IAM`` Amazon's own.

    Raises:
        SourceError: they contradict each other, or lack something.
    """
    servers = environ.get("KAFKA_BOOTSTRAP_SERVERS") or DEFAULT_SERVERS
    mechanism = environ.get("KAFKA_SASL_MECHANISM", "").upper()
    usual = "SASL_SSL" if mechanism == _IAM else "PLAINTEXT"
    protocol = (environ.get("KAFKA_SECURITY_PROTOCOL") or usual).upper()
    if protocol not in _PROTOCOLS:
        raise SourceError(f"KAFKA_SECURITY_PROTOCOL is {protocol}, not {_either(_PROTOCOLS)}")
    named = [server.strip() for server in servers.split(",") if server.strip()]
    if not named or not all(_SERVER.fullmatch(server) for server in named):
        raise SourceError(f"KAFKA_BOOTSTRAP_SERVERS is {servers!r}; write HOST:PORT,HOST:PORT")
    settings: dict[str, Any] = {"bootstrap_servers": named, "security_protocol": protocol}
    if protocol.endswith("SSL"):
        settings |= _tls_settings(environ)
    if protocol.startswith("SASL"):
        settings |= _sasl_settings(environ, mechanism, protocol)
    elif mechanism:
        raise SourceError(
            f"KAFKA_SASL_MECHANISM is {mechanism}, but KAFKA_SECURITY_PROTOCOL {protocol} asks for "
            "no user; set the latter to SASL_SSL, or remove the former"
        )
    return settings


def _tls_settings(environ: Mapping[str, str]) -> dict[str, Any]:
    settings: dict[str, Any] = {}
    for variable, name in _FILES.items():
        if path := environ.get(variable):
            if not Path(path).is_file():
                raise SourceError(f"{variable} is {path}, which is no file")
            settings[name] = path
    if password := environ.get("KAFKA_SSL_PASSWORD"):
        settings["ssl_password"] = password
    check = environ.get("KAFKA_SSL_CHECK_HOSTNAME", "").lower() or "true"
    if check not in ("true", "false"):
        raise SourceError(f"KAFKA_SSL_CHECK_HOSTNAME is {check}, not true or false")
    settings["ssl_check_hostname"] = check == "true"
    return settings


def _sasl_settings(environ: Mapping[str, str], mechanism: str, protocol: str) -> dict[str, Any]:
    if mechanism == _IAM:
        if protocol != "SASL_SSL":
            raise SourceError(f"{_IAM} needs KAFKA_SECURITY_PROTOCOL SASL_SSL, not {protocol}")
        region = environ.get("AWS_REGION") or environ.get("AWS_DEFAULT_REGION")
        if not region:
            raise SourceError(f"{_IAM} needs the cluster's region; set AWS_REGION")
        return {
            "sasl_mechanism": "OAUTHBEARER",
            "sasl_oauth_token_provider": _msk_tokens(region),
        }
    if mechanism not in _PASSWORD_MECHANISMS:
        known = _either((*_PASSWORD_MECHANISMS, _IAM))
        raise SourceError(f"KAFKA_SASL_MECHANISM is {mechanism or 'not set'}; it must be {known}")
    settings = {"sasl_mechanism": mechanism}
    for name in ("username", "password"):
        variable = f"KAFKA_SASL_{name.upper()}"
        if not environ.get(variable):
            raise SourceError(f"{mechanism} needs a {name}; set {variable}")
        settings[f"sasl_plain_{name}"] = environ[variable]
    return settings


def _msk_tokens(region: str) -> Any:
    """What signs a client's access to Amazon MSK with the AWS credentials at hand."""
    from aws_msk_iam_sasl_signer import MSKAuthTokenProvider
    from botocore.exceptions import BotoCoreError, ClientError
    from kafka.errors import SaslAuthenticationFailedError
    from kafka.net.sasl.oauth import AbstractTokenProvider

    class Tokens(AbstractTokenProvider):  # type: ignore[misc]
        def token(self) -> str:
            try:
                token, _expires = MSKAuthTokenProvider.generate_auth_token(region)
            except AttributeError:  # of None, which are the credentials where there are none
                raise SaslAuthenticationFailedError("no AWS credentials are found") from None
            except (BotoCoreError, ClientError, ValueError) as error:
                raise SaslAuthenticationFailedError(" ".join(str(error).split())) from error
            return str(token)

    return Tokens()


def _either(names: Sequence[str]) -> str:
    return f"{', '.join(names[:-1])} or {names[-1]}"


@dataclass
class _Place:
    """Where reading stands in a partition.

    Attributes:
        origin: its name in the lake.
        offset: of the next record.
        end: where the partition ended when reading began.
        follows: whether all before the next record must have landed.
    """

    origin: Origin
    offset: int
    end: int
    follows: bool


class KafkaReader:
    """Reads topics; see :class:`ingestion.streams.Reader`.

    Args:
        settings: as `client_settings` gives them.
        topics: their names.
        stored: what the tables account for now, each time it is called.
        follow: whether to read on as records come, else to where the partitions end now.
        share: which of how many processes this one is; they share the partitions.
        group: the consumer group whose offsets are written; none without.
        accept_gap: whether to read on where records are gone that were not read.
        accept_new_topic: whether a topic may be another than the one that was landed.
        otherwise: the way out where a topic is another and that is not accepted.
        overlap: how many offsets before where the tables stand are read once more.
        notice: told what the user should know.
        now: seconds of a clock that never goes back.
    """

    def __init__(
        self,
        settings: Mapping[str, Any],
        topics: Sequence[str],
        stored: Callable[[], Stored],
        *,
        follow: bool,
        share: tuple[int, int] = (0, 1),
        group: str | None = None,
        accept_gap: bool = False,
        accept_new_topic: bool = False,
        otherwise: str = "--accept-new-topic lands it from its first record, as partitions 0@<id>",
        overlap: int = 0,
        notice: Callable[[str], None] = lambda _: None,
        now: Callable[[], float] = time.monotonic,
    ) -> None:
        self._settings = settings
        self._servers = ",".join(settings["bootstrap_servers"])
        self._topics = list(topics)
        self._stored = stored
        self._follow = follow
        self._share = share
        self._group = group
        self._accept_gap = accept_gap
        self._accept_new_topic = accept_new_topic
        self._otherwise = otherwise
        self._overlap = overlap
        self._notice = notice
        self._now = now
        self._cluster: Cluster | None = None
        self._worker = ThreadPoolExecutor(1, thread_name_prefix="kafka-look")
        self._looking: Future[tuple[Cluster, dict[str, Topic]]] | None = None
        self._look_due = 0.0
        self._settled = False
        self._out = False
        self._ids: dict[str, str] = {}
        self._absent: set[str] = set()
        self._leaderless: set[TopicPartition] = set()
        self._places: dict[TopicPartition, _Place] = {}
        self._marks: list[Chunk] = []
        self._group_offsets: dict[TopicPartition, int] = {}
        self._group_written: dict[TopicPartition, int] = {}
        self._moved = 0.0

    # --- what landing asks ---------------------------------------------------------------------

    def read(self, timeout: float) -> Sequence[Chunk]:
        """The next records of a partition."""
        if not self._settled and not self._follow:
            try:
                self._settle(*self._look())
            except _unreachable() as error:
                raise self._not_reached(error) from error
        elif self._now() >= self._look_due:
            self._look_around()
        chunks, self._marks = self._marks, []
        if self._cluster is None or not self._places:
            if not chunks and self._follow:
                time.sleep(timeout)
            return chunks
        if not self.finished:
            chunks += self._poll(0 if chunks else timeout)
        return chunks

    @property
    def finished(self) -> bool:
        """Whether all partitions were read to where they ended in the beginning."""
        return (
            not self._follow
            and self._settled
            and not self._marks
            and all(place.offset >= place.end for place in self._places.values())
        )

    def landed(self, ends: Mapping[Origin, int]) -> None:
        """Note where the group stands; it is told when the topics are looked at next."""
        if self._group is not None:
            places = {place.origin: partition for partition, place in self._places.items()}
            told = {places[origin]: end for origin, end in ends.items() if origin in places}
            self._group_offsets = {**self._group_offsets, **told}

    @property
    def absent(self) -> list[str]:
        """The topics that do not exist."""
        return sorted(self._absent)

    @property
    def origins(self) -> list[Origin]:
        """What the partitions that are read are called in the lake."""
        return [place.origin for place in self._places.values()]

    @property
    def behind(self) -> dict[str, int]:
        """How many offsets are still to be read, by topic."""
        lags = dict.fromkeys(self._topics, 0)
        for partition, place in self._places.items():
            end = place.end
            if self._cluster is not None:
                end = max(end, self._cluster.consumer.highwater(partition) or 0)
            lags[partition.topic] += max(0, end - place.offset)
        return lags

    def close(self) -> None:
        """Tell the group where it stands, and close the connections."""
        if self._cluster is not None:
            deadline = self._now() + GROUP_SECONDS
            while not self._out and not self._write_group(self._cluster):
                if self._now() > deadline:
                    break
                time.sleep(0.1)
            self._cluster.close()
        self._worker.shutdown(cancel_futures=True)
        if self._looking is not None and not self._looking.cancelled():
            with suppress(Exception):
                self._looking.result()[0].close()

    # --- topics --------------------------------------------------------------------------------

    def _look(self) -> tuple[Cluster, dict[str, Topic]]:
        """Connect if need be, and see which topics there are; in the worker's thread, too."""
        from ingestion.sources.kafka_cluster import Cluster

        cluster = self._cluster or Cluster(self._settings)
        try:
            self._write_group(cluster)
            return cluster, cluster.topics(self._topics)
        except BaseException:
            if self._cluster is None:
                cluster.close()
            raise

    def _write_group(self, cluster: Cluster) -> bool:
        """Write the group's offsets; whether there is no use in trying that again at once."""
        from kafka.errors import RetriableError

        before = self._group_written
        offsets = {at: end for at, end in self._group_offsets.items() if before.get(at) != end}
        if self._group is None or not offsets:
            return True
        try:
            written = cluster.write_group(self._group, offsets)
        except Exception as error:  # nobody reads them
            return not isinstance(error, RetriableError)
        self._group_written = {**before, **written}
        return len(written) == len(offsets)

    def _look_around(self) -> None:
        """Look at the topics in another thread, and take notice once that has been done."""
        if self._looking is None:
            self._looking = self._worker.submit(self._look)
        if not self._looking.done():
            return
        looked, self._looking = self._looking, None
        self._look_due = self._now() + LOOK_SECONDS
        try:
            self._settle(*looked.result())
        except _unreachable() as error:
            if self._follow and not self._out:
                self._notice(f"Kafka at {self._servers} cannot be reached ({error}); waiting")
            self._out = True
            return
        if self._out and self._follow:
            self._notice(f"Kafka at {self._servers} answers again")
        self._out = False

    def _settle(self, cluster: Cluster, topics: Mapping[str, Topic]) -> None:
        """Begin to read partitions that are new, cease to read topics that are gone."""
        self._cluster = cluster
        if not topics and not self._follow:
            raise SourceError(
                f"none of the topics exists: {', '.join(self._topics)} at {self._servers}; create "
                "them, or check --pipeline-id and --bootstrap-servers"
            )
        stored = cache(self._stored)  # the tables are opened only if there is something new
        for place, name in enumerate(self._topics):
            topic = topics.get(name)
            if topic is None:
                self._note_absence(name)
                continue
            self._absent.discard(name)
            changed = self._ids.get(name, topic.id) != topic.id
            if changed:
                self._drop(name)
            elif self._settled and not self._follow:
                continue  # what has come since is for the next run
            unread = self._unread(place, name, topic)
            fresh = self._led(unread, topic)
            if fresh or (unread and changed):
                generation = self._generation(name, topic, changed, stored)
                if fresh:
                    self._begin(cluster, name, topic, fresh, generation, stored)
            self._ids[name] = topic.id
        if not self._settled:
            self._settled, self._moved = True, self._now()

    def _note_absence(self, name: str) -> None:
        if name in self._absent:
            return
        self._absent.add(name)
        if self._drop(name):
            self._notice(f"topic {name} is gone")
        elif self._follow:
            self._notice(f"topic {name} does not exist yet; waiting for it")
        else:
            self._notice(f"topic {name} does not exist; the others are read")

    def _drop(self, name: str) -> bool:
        """Cease to read a topic; whether it was read."""
        assert self._cluster is not None
        kept = {at: place for at, place in self._places.items() if at.topic != name}
        told = self._group_offsets.items()
        self._group_offsets = {at: end for at, end in told if at.topic != name}
        dropped = len(kept) < len(self._places)
        self._places = kept
        if dropped:
            self._cluster.consumer.assign(list(kept))
        return dropped

    def _unread(self, place: int, name: str, topic: Topic) -> list[TopicPartition]:
        from kafka import TopicPartition

        mine = [
            TopicPartition(name, number)
            for number in topic.partitions
            if kafka_topics.is_mine(place, number, *self._share)
        ]
        return [partition for partition in mine if partition not in self._places]

    def _led(self, partitions: list[TopicPartition], topic: Topic) -> list[TopicPartition]:
        """Those of some partitions that a broker leads; the next look is for the others."""
        for at in partitions:
            if at.partition in topic.leaderless and at not in self._leaderless:
                text = f"topic {at.topic}, partition {at.partition} has no leader"
                if not self._follow:
                    raise SourceError(f"{text}; see whether all brokers run, then run again")
                self._notice(f"{text}; waiting for one")
                self._leaderless.add(at)
        return [at for at in partitions if at.partition not in topic.leaderless]

    def _generation(
        self, name: str, topic: Topic, changed: bool, stored: Callable[[], Stored]
    ) -> Generation:
        if changed and self._accept_new_topic:
            return kafka_topics.again(topic.id)
        found: Generation | str = self._ids.get(name, "")
        if not changed:
            found = kafka_topics.generation(name, topic.id, stored(), self._accept_new_topic)
        if isinstance(found, str):
            raise SourceError(
                f"topic {name} is not the one that was read before: its id is {topic.id}, not "
                f"{found}; it was deleted and created anew, or is another cluster's; "
                + self._otherwise
            )
        return found

    def _begin(
        self,
        cluster: Cluster,
        name: str,
        topic: Topic,
        partitions: list[TopicPartition],
        generation: Generation,
        stored: Callable[[], Stored],
    ) -> None:
        """Begin to read partitions of a topic where the tables stand."""
        bounds = cluster.bounds(partitions)
        grown = bool(self._ids.get(name)) and self._settled
        places: dict[TopicPartition, _Place] = {}
        lost: list[str] = []
        for partition in partitions:
            origin = Origin(SOURCE, name, f"{partition.partition}{generation.suffix}")
            beginning, end = bounds[partition]
            held = stored()(origin)
            begin = kafka_topics.start(held, beginning, end)
            if begin is None:
                if not self._accept_new_topic or not topic.id or generation.suffix:
                    raise self._cut_off(partition, held.end, end)
                once_more = kafka_topics.again(topic.id)
                self._begin(cluster, name, topic, partitions, once_more, stored)
                return
            lost += self._lost(partition, begin)
            offset = max(beginning, begin.offset - self._overlap)
            places[partition] = _Place(origin, offset, end, begin.follows)
        if lost and not self._accept_gap:
            raise SourceError("; ".join([*lost[:3], "--accept-gap reads what is still there"]))
        for text in lost:
            self._notice(text)
        new = [str(at.partition) for at in partitions if at not in self._leaderless]
        if grown and new:
            self._notice(f"topic {name} has new partitions: {', '.join(new)}")
        self._leaderless -= places.keys()
        self._marks += [
            Chunk(Origin(SOURCE, name, mark), at, at + 1, [], [], follows=False)
            for mark, at in generation.unrecorded
        ]
        self._places |= places
        cluster.consumer.assign(list(self._places))
        for partition, place in places.items():
            cluster.consumer.seek(partition, place.offset)
            if not self._follow and place.offset >= place.end:
                cluster.consumer.pause(partition)

    def _lost(self, partition: TopicPartition, begin: Start) -> list[str]:
        if begin.lost is None:
            return []
        first, end = begin.lost
        return [
            f"topic {partition.topic}, partition {partition.partition}: the records at "
            f"[{first:,}, {end:,}) were removed from Kafka before they were read"
        ]

    def _cut_off(self, partition: TopicPartition, stored: int, end: int) -> SourceError:
        return SourceError(
            f"topic {partition.topic}, partition {partition.partition} ends at {end:,}, before "
            f"{stored:,}, up to where it was read: Kafka lost records, or it is another topic; "
            + self._otherwise
        )

    # --- records -------------------------------------------------------------------------------

    def _poll(self, timeout: float) -> list[Chunk]:
        """The next run of records, if one comes in time."""
        from kafka import errors as kafka_errors

        assert self._cluster is not None
        polled: Mapping[TopicPartition, Sequence[Run]] = {}
        try:
            # A run at a time: what is read and not decoded yet stays small.
            polled = self._cluster.consumer.poll(timeout_ms=int(timeout * 1000), max_records=1)
        except kafka_errors.OffsetOutOfRangeError as error:
            with suppress(_unreachable()):  # Kafka tells it once more
                self._out_of_range(self._same(error.args[0]))
        except kafka_errors.LogTruncationError as error:
            with suppress(_unreachable()):
                self._truncated(error.divergent_offsets)
        except kafka_errors.RetriableError:
            pass  # the client goes on trying by itself
        except kafka_errors.KafkaError as error:
            raise SourceError(f"Kafka at {self._servers}: {_said(error)}") from error
        chunks = [self._chunk(at, run) for at, runs in polled.items() for run in runs]
        if chunks:
            self._moved = self._now()
        elif not self._follow and self._now() - self._moved > STALLED_SECONDS:
            raise self._stalled()
        return chunks

    def _chunk(self, partition: TopicPartition, run: Run) -> Chunk:
        place = self._places[partition]
        chunk = Chunk(place.origin, place.offset, run.end, run.offsets, run.values, place.follows)
        place.offset, place.follows = run.end, True
        if not self._follow and place.offset >= place.end and self._cluster is not None:
            self._cluster.consumer.pause(partition)
        return chunk

    def _same(self, partitions: Iterable[TopicPartition]) -> list[TopicPartition]:
        """Those of some partitions whose topics are still the ones that are read."""
        assert self._cluster is not None
        read = [at for at in partitions if at in self._places]
        names = {at.topic for at in read}
        topics = self._cluster.topics(sorted(names)) if names else {}
        for name in names:
            if name not in topics or topics[name].id != self._ids[name]:
                self._begin_anew(name)
        return [at for at in read if at in self._places]

    def _begin_anew(self, name: str) -> None:
        """Cease to read a topic; a look from now on, not one under way, tells what it is."""
        self._drop(name)
        self._looking, self._look_due = None, 0.0
        self._settled = self._follow  # reading to the end is not at its end before that look

    def _truncated(self, divergent: Mapping[TopicPartition, Any]) -> None:
        """Kafka lost what was read last; what it holds in its place cannot land any more."""
        partitions = self._same(divergent)
        for at in partitions:
            end = self._places[at].offset
            known = divergent[at]
            lost = f"[{known.offset:,}, {end:,})" if known else f"an unknown offset to {end:,}"
            text = (
                f"topic {at.topic}, partition {at.partition}: Kafka lost the records at {lost} "
                "after they were read, and may hold others in their place"
            )
            if not self._accept_gap:
                raise SourceError(f"{text}; --accept-gap leaves those out and reads on behind them")
            self._notice(text)
        self._out_of_range(partitions)

    def _out_of_range(self, partitions: Sequence[TopicPartition]) -> None:
        """What was to be read next is not there: removed meanwhile, or never written."""
        assert self._cluster is not None
        for partition, (beginning, end) in self._cluster.bounds(partitions).items():
            if partition not in self._places:
                continue
            place = self._places[partition]
            begin = kafka_topics.start(Offsets.of([(0, place.offset)]), beginning, end)
            if begin is None:
                if not self._accept_new_topic:
                    raise self._cut_off(partition, place.offset, end)
                self._begin_anew(partition.topic)
                continue
            for text in self._lost(partition, begin):
                if not self._accept_gap:
                    raise SourceError(f"{text}; --accept-gap reads what is still there")
                self._notice(text)
            place.offset, place.follows = begin.offset, begin.follows
            self._cluster.consumer.seek(partition, place.offset)

    def _stalled(self) -> SourceError:
        waiting = [
            f"{at.topic}/{at.partition} at {place.offset:,} of {place.end:,}"
            for at, place in self._places.items()
            if place.offset < place.end
        ]
        return SourceError(
            f"Kafka at {self._servers} has given nothing for {STALLED_SECONDS:.0f} s "
            f"({', '.join(waiting[:3])}); see whether all brokers run, then run again"
        )

    def _not_reached(self, error: Exception) -> SourceError:
        return SourceError(
            f"Kafka at {self._servers} cannot be reached: {error}; start it, or name its address "
            "with --bootstrap-servers or KAFKA_BOOTSTRAP_SERVERS"
        )


def _unreachable() -> type[Exception]:
    from ingestion.sources.kafka_cluster import Unreachable

    return Unreachable


def _said(error: Exception) -> str:
    text = " ".join(str(error).split())
    if "snappy" in text:
        return f"{text}; let producers compress with lz4, zstd or gzip, or install python-snappy"
    return text or type(error).__name__
