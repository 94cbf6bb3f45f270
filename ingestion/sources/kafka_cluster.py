"""Connections to Kafka: one that reads records, one that asks about topics."""

from __future__ import annotations

import logging
import re
import ssl
import time
from collections import deque
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

from kafka import KafkaAdminClient, KafkaConsumer, TopicPartition
from kafka import errors as kafka_errors
from kafka.net import manager as kafka_manager
from kafka.net.compat import KafkaNetClient
from kafka.net.transport import KafkaSSLTransport
from kafka.structs import OffsetAndMetadata

from ingestion.errors import SourceError
from ingestion.sources.kafka_runs import PartitionRuns
from ingestion.sources.kafka_topics import Topic, topic_id

#: How long connecting may take, in milliseconds.
CONNECT_MS = 4_000
#: How long a broker may take to answer.
REQUEST_MS = 10_000
#: Bytes a broker hands over at once: of all partitions, and of one. Twice as many lie in memory.
FETCH_BYTES = 4 * 1024 * 1024
PARTITION_FETCH_BYTES = 1 * 1024 * 1024
#: A broker answers when it has so many bytes, or after so many milliseconds.
FETCH_MIN_BYTES = 64 * 1024
FETCH_WAIT_MS = 100


_WHY = re.compile(r"onnection .*?failed: (?:KafkaConnectionError: )?(.*?)(?: \(backoff .*)?$")


class Unreachable(Exception):
    """No broker answers now; one may later."""


class _TlsTransport(KafkaSSLTransport):  # type: ignore[misc]
    """Gives up on a peer that is silent during the handshake, where kafka-python waits for ever."""

    async def handshake(self) -> None:
        """Agree on keys."""
        until = time.monotonic() + CONNECT_MS / 1000
        while True:
            try:
                self._sock.do_handshake()
                return
            except ssl.SSLWantReadError:
                ready = self._net.wait_read(self._sock, until)
            except ssl.SSLWantWriteError:
                ready = self._net.wait_write(self._sock, until)
            try:
                await ready
            except kafka_errors.KafkaTimeoutError:
                self._sock.close()
                raise TimeoutError("it accepts the connection and does not answer to TLS") from None


kafka_manager.KafkaSSLTransport = _TlsTransport  # there is no setting for it


class Cluster:
    """A cluster, connected.

    Args:
        settings: as `client_settings` gives them.

    Raises:
        Unreachable: no broker answers.
        SourceError: one does, and waiting does not help.
    """

    def __init__(self, settings: Mapping[str, Any]) -> None:
        self._words = _LastWords.installed()
        self._words.texts.clear()
        self._clients: list[KafkaNetClient] = []
        common = {
            **settings,
            "kafka_client": self._client,
            "bootstrap_timeout_ms": CONNECT_MS,
            "request_timeout_ms": REQUEST_MS,
            "reconnect_backoff_max_ms": 1_000,
        }
        try:
            self._admin = KafkaAdminClient(**common)
            self.consumer = KafkaConsumer(
                **common,
                isolation_level="read_committed",
                enable_auto_commit=False,
                auto_offset_reset="none",
                check_crcs=True,
                metrics_enabled=False,
                fetch_max_bytes=FETCH_BYTES,
                max_partition_fetch_bytes=PARTITION_FETCH_BYTES,
                fetch_min_bytes=FETCH_MIN_BYTES,
                fetch_max_wait_ms=FETCH_WAIT_MS,
            )
        except Exception as error:
            self.close()
            raise self._explained(error, settings) from error
        self._words.texts.clear()
        # One run a poll, where kafka-python would make an object of every record.
        self.consumer._fetcher.PartitionRecords = PartitionRuns

    def _client(self, **configs: Any) -> KafkaNetClient:
        client = KafkaNetClient(**configs)
        self._clients.append(client)
        return client

    def _explained(self, error: Exception, settings: Mapping[str, Any]) -> Exception:
        servers = ",".join(settings["bootstrap_servers"])
        said = " ".join([*self._words.texts, str(error)])
        if "SaslAuthenticationFailed" in said or "UnsupportedSaslMechanism" in said:
            wrong = "KAFKA_SASL_MECHANISM, KAFKA_SASL_USERNAME and KAFKA_SASL_PASSWORD"
            if "sasl_oauth_token_provider" in settings:
                wrong = "KAFKA_SASL_MECHANISM, AWS_REGION and the AWS credentials (AWS_*)"
            return SourceError(
                f"Kafka at {servers} refuses the user: {self._words.reason(error)}; correct {wrong}"
            )
        if isinstance(error, kafka_errors.RetriableError):
            return Unreachable(self._words.reason(error))
        return SourceError(f"Kafka at {servers} cannot be used: {error}")

    def close(self) -> None:
        """Close both connections."""
        for client in self._clients:
            client.close()

    def topics(self, names: Sequence[str]) -> dict[str, Topic]:
        """Those of some topics that exist.

        Raises:
            Unreachable: no broker answers.
            SourceError: a topic may not be read.
        """
        with self._asking():
            described = self._admin.describe_topics(list(names))
            found = {}
            for topic in described:
                answer = kafka_errors.for_code(topic["error_code"])
                if answer is kafka_errors.NoError:
                    leaders = {
                        part["partition_index"]: part["leader_id"] for part in topic["partitions"]
                    }
                    found[topic["name"]] = Topic(
                        topic_id(topic.get("topic_id")),
                        sorted(leaders),
                        {number for number, leader in leaders.items() if leader < 0},
                    )
                elif answer is kafka_errors.TopicAuthorizationFailedError:
                    raise answer({topic["name"]})
        return found

    def bounds(self, partitions: Iterable[TopicPartition]) -> dict[TopicPartition, tuple[int, int]]:
        """The first offset of partitions, and one more than the last that may be read.

        Raises:
            Unreachable: no broker answers, or none leads a partition.
            SourceError: a topic may not be read.
        """
        wanted = list(partitions)
        try:
            with self._asking():
                beginnings = self.consumer.beginning_offsets(wanted, timeout_ms=REQUEST_MS)
                ends = self.consumer.end_offsets(wanted, timeout_ms=REQUEST_MS)
        except KeyError as error:  # kafka-python leaves out partitions without a leader
            at = error.args[0]
            raise Unreachable(
                f"topic {at.topic}, partition {at.partition} has no leader"
            ) from error
        return {partition: (beginnings[partition], ends[partition]) for partition in wanted}

    @contextmanager
    def _asking(self) -> Iterator[None]:
        try:
            yield
        except kafka_errors.RetriableError as error:
            raise Unreachable(self._words.reason(error)) from error
        except kafka_errors.TopicAuthorizationFailedError as error:
            topics = ", ".join(sorted(error.args[0]))
            raise SourceError(
                f"this user may not read {topics}; allow it DESCRIBE and READ of the topic, "
                "or correct KAFKA_SASL_USERNAME"
            ) from error
        except kafka_errors.KafkaError as error:
            raise SourceError(f"Kafka refuses: {' '.join(str(error).split())}") from error

    def write_group(
        self, group: str, offsets: Mapping[TopicPartition, int]
    ) -> dict[TopicPartition, int]:
        """Write a group's offsets, which nobody reads but displays of the lag.

        Returns:
            Those that were written.

        Raises:
            KafkaError: none could be written.
        """
        written: dict[TopicPartition, int] = {}
        try:
            answers = self._admin.alter_group_offsets(
                group, {tp: OffsetAndMetadata(offset, "", -1) for tp, offset in offsets.items()}
            )
            written = {tp: offsets[tp] for tp, of in answers.items() if of is kafka_errors.NoError}
        finally:
            if len(written) < len(offsets):
                # kafka-python asks once which broker keeps a group, and it may be another by now.
                self._admin._manager.cluster._coordinators.clear()
        return written


class _LastWords(logging.Handler):
    """The last warnings of the client, which knows more than the errors it raises."""

    def __init__(self) -> None:
        super().__init__(logging.WARNING)
        self.texts: deque[str] = deque(maxlen=50)

    @classmethod
    def installed(cls) -> _LastWords:
        """The one that the client's logger has; its warnings go nowhere else."""
        logger = logging.getLogger("kafka")
        for handler in logger.handlers:
            if isinstance(handler, cls):
                return handler
        words = cls()
        logger.addHandler(words)
        logger.propagate = False
        return words

    def emit(self, record: logging.LogRecord) -> None:
        """Keep what it says."""
        self.texts.append(record.getMessage())

    def reason(self, error: Exception) -> str:
        """Why no broker can be reached, in one line."""
        found = [match[1] for text in reversed(list(self.texts)) if (match := _WHY.search(text))]
        # That time ran out is the last that happens, whatever kept it from being enough.
        telling = [why for why in found if "imed out" not in why]
        why = [*telling, *found, str(error)][0]
        if "socket disconnected" in why:
            return (
                "it closes the connection, as brokers do that refuse the user or want another "
                "KAFKA_SECURITY_PROTOCOL"
            )
        return " ".join(why.split()) or type(error).__name__
