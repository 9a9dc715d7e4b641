"""The records of one run, which Kafka keeps in several topics, put in the order of the run's log. Pure.

Each record comes with its row, dense over all topics; topics are read at different speeds, and anything may be read again.
"""

from collections.abc import Iterator, Mapping

from esper.errors import DataError
from esper.events.envelope import Record


class RowMerge:
    """The records of one run that cannot be written yet, and the last row that was written, `last`."""

    def __init__(self, last: int) -> None:
        self.last = last
        self.size_bytes = 0
        self._waiting: dict[int, tuple[int, Record]] = {}

    def __len__(self) -> int:
        return len(self._waiting)

    @property
    def lowest(self) -> int:
        """The lowest row that waits; 0 where none does."""
        return min(self._waiting, default=0)

    @property
    def highest(self) -> int:
        """The highest row that waits; 0 where none does."""
        return max(self._waiting, default=0)

    def take(self, row: int, offset: int, record: Record) -> bool:
        """True where the record waits now; False where its row was written before. Raises DataError for another record in a row."""
        if row <= self.last:
            return False
        _, held = self._waiting.setdefault(row, (offset, record))
        if held is record:
            self.size_bytes += len(record.data)
        elif held != record:
            raise DataError(
                f"run {record.run}, row {row}: expected {held.topic}, sequence {held.sequence}, got another record in its place"
            )
        return True

    def ready(self, gone_to: int = 0) -> Iterator[tuple[int, Record]]:
        """The next rows, in order, which wait no more. Missing rows are passed over where a row up to `gone_to` waits behind them."""
        while self._waiting:
            following = self.last + 1
            if following not in self._waiting:
                following = min(self._waiting)
                if following > gone_to:
                    return
            _, record = self._waiting.pop(following)
            self.size_bytes -= len(record.data)
            self.last = following
            yield following, record

    def offsets(self) -> Mapping[str, int]:
        """The least offset that waits, by topic: a reader that starts again begins there."""
        least: dict[str, int] = {}
        for offset, record in self._waiting.values():
            least[record.topic] = min(offset, least.get(record.topic, offset))
        return least
