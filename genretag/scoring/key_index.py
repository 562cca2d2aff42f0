"""Key index: digests of the keys of all predictions, so that a run need not read the part files of earlier runs.

A key is the URI and the etag of an object version. `OUTPUT/keys/<model version>/` holds Arrow files, the segments. A
segment has one row per prediction of the model version in some part files: a digest of the URI, a digest of the etag,
and the number of the part file. Its metadata names these part files with their sizes and etags.

The part files are the source of truth. A row of a segment counts only while the output lists its part file with the
same size and etag. All other part files are read, and then added to the index. So an index that is missing, damaged or
older than the part files costs time and nothing else. Anybody may delete the folder `keys/` at any time.

A digest is DuckDB's 64-bit hash of a random text (the salt) followed by the URI or the etag. By chance, the index takes
a new key for a known one with a probability of n / 2**64, where n is the number of predictions with the same etag. The
hash does not stop a person who makes another image with the same etag. But without an index, too, nobody could tell
such an image from the first one under the same URI.
"""

import json
import logging
import secrets
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace

import duckdb
import numpy as np
import pyarrow as pa

from genretag.errors import one_line
from genretag.output import OutputFiles
from genretag.output.schema import is_of_model, profile_held
from genretag.storage import ObjectInfo, Storage, StorageError, join

logger = logging.getLogger(__name__)

FOLDER = "keys"
METADATA = b"genretag.keys"
FORMAT = f"1, DuckDB {duckdb.__version__}"  # of a segment; another version of DuckDB may compute other digests
SALT_BYTES = 12
Profile = tuple[tuple[bytes, bytes], ...]  # the items of `profile_held` for a part file, as a dictionary key
DAMAGED = (OSError, pa.ArrowException, ValueError, LookupError, TypeError, AttributeError)  # `from_bytes` raises these


@dataclass(frozen=True)
class IndexedPart:
    """A part file whose keys are in the index.

    `name` is its location below the output. `rows` counts its rows of all model versions. `profile` is empty if the
    metadata of the part file name another model version, or no threshold profile.
    """

    name: str
    size_bytes: int
    etag: str
    rows: int
    profile: Profile


@dataclass(frozen=True)
class Segment:
    """Digests of keys, sorted by the digest of the URI.

    `uris` and `etags` are uint64 (N,). `numbers`, unsigned (N,), has the index of each key's part file in `parts`. Keys
    of a part file count only if its value in `exists`, bool (len(parts),), is true. `location` is the URI of a segment
    that is stored.
    """

    uris: np.ndarray
    etags: np.ndarray
    numbers: np.ndarray
    parts: tuple[IndexedPart, ...]
    exists: np.ndarray
    location: str = ""

    def __len__(self) -> int:
        return len(self.uris)

    def existing(self) -> list[IndexedPart]:
        """Return the part files that exist."""
        return [part for part, exists in zip(self.parts, self.exists, strict=True) if exists]

    def rows_of(self, uris: np.ndarray) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        """Yield pairs of equally long arrays: indices in `uris`, and the rows of the segment with the same URI digest.

        `uris` must be sorted. If several rows have the same digest, they are in different pairs. Rows of part files
        that do not exist are left out.
        """
        wanted, rows = np.arange(len(uris)), np.searchsorted(self.uris, uris)
        while len(rows):
            inside = rows < len(self)
            wanted, rows = wanted[inside], rows[inside]
            same = self.uris[rows] == uris[wanted]
            wanted, rows = wanted[same], rows[same]
            exists = self.exists[self.numbers[rows]]
            yield wanted[exists], rows[exists]
            rows = rows + 1


def sort_keys(uris: np.ndarray, etags: np.ndarray, numbers: np.ndarray, parts: Sequence[IndexedPart]) -> Segment:
    """Return a segment of keys in any order, for part files that exist."""
    order = np.argsort(uris)
    numbers = numbers.astype(np.min_scalar_type(len(parts)))
    return Segment(uris[order], etags[order], numbers[order], tuple(parts), np.ones(len(parts), bool))


def merge(segments: Sequence[Segment]) -> Segment:
    """Return one segment with the keys of all part files that exist."""
    uris, etags, numbers, parts = [], [], [], list[IndexedPart]()
    for segment in segments:
        kept = segment.exists[segment.numbers]
        uris.append(segment.uris[kept])
        etags.append(segment.etags[kept])
        numbers.append((np.cumsum(segment.exists) - 1 + len(parts))[segment.numbers[kept]])
        parts += segment.existing()
    return sort_keys(np.concatenate(uris), np.concatenate(etags), np.concatenate(numbers), parts)


def to_bytes(segment: Segment, salt: str) -> bytes:
    """Return the content of a segment's Arrow file. Equal threshold profiles are stored once."""
    profiles = {profile: number for number, profile in enumerate(dict.fromkeys(p.profile for p in segment.parts))}
    parts = [(part.name, part.size_bytes, part.etag, part.rows, profiles[part.profile]) for part in segment.parts]
    texts = [[(key.decode(), value.decode()) for key, value in profile] for profile in profiles]
    facts = {"format": FORMAT, "salt": salt, "profiles": texts, "parts": parts}
    table = pa.table({"uri": segment.uris, "etag": segment.etags, "part": segment.numbers})
    table = table.replace_schema_metadata({METADATA: json.dumps(facts)})
    sink = pa.BufferOutputStream()
    with pa.ipc.new_file(sink, table.schema) as writer:
        writer.write_table(table)
    return sink.getvalue().to_pybytes()


def from_bytes(data: bytes) -> tuple[Segment, str]:
    """Return the segment and the salt that `to_bytes` was given. Raises one of `DAMAGED` if `data` is no segment."""
    table = pa.ipc.open_file(pa.py_buffer(data)).read_all()
    facts = json.loads((table.schema.metadata or {})[METADATA])
    if facts["format"] != FORMAT:
        raise ValueError(f"its format is {one_line(facts['format'], 40)}, and this genretag reads {FORMAT}")
    profiles = [tuple((key.encode(), value.encode()) for key, value in profile) for profile in facts["profiles"]]
    parts = tuple(
        IndexedPart(name, size_bytes, etag, rows, profiles[profile])
        for name, size_bytes, etag, rows, profile in facts["parts"]
    )
    uris, etags, numbers = (table[name].to_numpy() for name in ("uri", "etag", "part"))
    if not uris.dtype == etags.dtype == np.uint64 or (len(numbers) and numbers.max() >= len(parts)):
        raise ValueError("it has no digests, or no part files for them")
    return Segment(uris, etags, numbers, parts, np.ones(len(parts), bool)), str(facts["salt"])


class KeyIndex:
    """The keys of all predictions of one model version in an output.

    First read the part files `unread`, and give their keys to `add`. Then look keys up. At the end, `save` the index.
    """

    def __init__(self, held: OutputFiles, model_version: str, storage: Storage) -> None:
        """Load the segments that belong to the part files `held`. If one cannot be read, log a warning."""
        self._folder, self._storage = join(held.output, FOLDER, model_version), storage
        self._output, self._model_version = held.output, model_version
        self._files = {self._name(info): info for info in held.by_kind["predictions"]}
        self._useless: list[str] = []  # URIs of segments to delete
        self._segments: list[Segment] = []
        self._listed: list[Segment] = []
        self.salt = ""
        self._load()
        self.salt = self.salt or secrets.token_urlsafe(SALT_BYTES)
        indexed = {part.name for part in self._parts()}
        self.unread = [info for name, info in self._files.items() if name not in indexed]

    def __len__(self) -> int:
        """Return the number of keys to look up, with those of part files that do not exist any more."""
        return sum(map(len, self._segments))

    def add(self, read: Iterable[tuple[ObjectInfo, pa.Table, np.ndarray, np.ndarray]]) -> None:
        """Add the part files `unread`: for each, its rows, and the digests of the URIs and etags of its keys.

        The rows are of all model versions. The digests, uint64 (N,) each, are of the index's model version alone.
        """
        parts, uris, etags = [], [], []
        for info, rows, uri_digests, etag_digests in read:
            profile = profile_held(rows.schema) if is_of_model(rows.schema, self._model_version) else {}
            part = IndexedPart(self._name(info), info.size_bytes, info.etag, len(rows), tuple(profile.items()))
            parts.append(part)
            uris.append(uri_digests)
            etags.append(etag_digests)
        if parts:
            numbers = np.repeat(np.arange(len(parts)), [len(digests) for digests in uris])
            self._segments.append(sort_keys(np.concatenate(uris), np.concatenate(etags), numbers, parts))

    def add_listed(self, uris: np.ndarray, etags: np.ndarray) -> None:
        """Add keys that no part file has: etags with which scored objects were listed. They are not saved.

        The digests are uint64 (N,) each.
        """
        order = np.argsort(uris)
        of_no_part = np.zeros(len(uris), np.uint8)
        self._listed.append(Segment(uris[order], etags[order], of_no_part, (), np.ones(1, bool)))

    def look_up(self, uris: np.ndarray, etags: np.ndarray) -> tuple[np.ndarray, list[ObjectInfo]]:
        """Look up keys by their digests, uint64 (N,) each.

        Return whether the index has each key, bool (N,). Also return the part files with other etags of the URIs of
        those keys that the index does not have.
        """
        order = np.argsort(uris)
        uris, etags = uris[order], etags[order]
        has = np.zeros(len(uris), bool)
        others: list[tuple[Segment, np.ndarray, np.ndarray]] = []
        for segment in (*self._segments, *self._listed):
            for wanted, rows in segment.rows_of(uris):
                same = segment.etags[rows] == etags[wanted]
                has[wanted[same]] = True
                if segment.parts:
                    others.append((segment, wanted[~same], rows[~same]))
        names = {
            segment.parts[number].name
            for segment, wanted, rows in others
            for number in np.unique(segment.numbers[rows[~has[wanted]]])
        }
        found = np.empty_like(has)
        found[order] = has
        return found, [self._files[name] for name in sorted(names)]

    def profiles(self) -> Counter[Profile]:
        """Count the rows of the part files by threshold profile. Part files without a profile are left out."""
        counts: Counter[Profile] = Counter()
        for part in self._parts():
            if part.profile:
                counts[part.profile] += part.rows
        return counts

    def save(self) -> None:
        """Store the added part files as a segment, and delete the files of segments that are of no use any more.

        The new segment takes in the stored ones that are not larger than itself, from the smallest to the largest. So
        there are few segments, and a large one is seldom written again. If the store fails, log a warning.
        """
        new = [segment for segment in self._segments if not segment.location]
        stored = sorted((segment for segment in self._segments if segment.location), key=len)
        while new and stored and len(stored[0]) <= sum(map(len, new)):
            new.append(stored.pop(0))
        useless = [*self._useless, *(segment.location for segment in new if segment.location)]
        try:
            if new:
                location = join(self._folder, f"{secrets.token_hex(8)}.arrow")
                self._storage.put(location, to_bytes(merge(new), self.salt))
            for location in useless:
                self._storage.delete(location)
        except StorageError as error:
            logger.warning("the key index is not saved, so the next run reads more part files: %s", one_line(error))

    def _load(self) -> None:
        """Read the segments. Of no use is one with another salt than the largest, or without a part file of its own."""
        segments = []
        for location in self._locations():
            try:
                segment, salt = from_bytes(self._storage.get(location).data)
            except StorageError as error:
                logger.warning("%s cannot be read, so part files are read instead: %s", location, one_line(error))
            except DAMAGED as error:
                logger.warning("%s is damaged, so part files are read instead: %s", location, one_line(error))
                self._useless.append(location)
            else:
                segments.append((replace(segment, location=location), salt))
        indexed: set[str] = set()
        for segment, salt in sorted(segments, key=lambda pair: len(pair[0]), reverse=True):
            self.salt = self.salt or salt
            exists = np.array([part.name not in indexed and self._exists(part) for part in segment.parts], bool)
            if salt == self.salt and exists.any():
                self._segments.append(replace(segment, exists=exists))
                indexed |= {part.name for part in self._segments[-1].existing()}
            else:
                self._useless.append(segment.location)

    def _locations(self) -> list[str]:
        """Return the URIs of the stored segments. If they cannot be listed, log a warning, and return none."""
        try:
            return [info.uri for page in self._storage.list(self._folder) for info in page]
        except StorageError as error:
            if error.reason != "not_found":
                logger.warning("the key index cannot be read, so part files are read instead: %s", one_line(error))
            return []

    def _name(self, info: ObjectInfo) -> str:
        """Return the location of a part file below the output."""
        return info.uri.removeprefix(f"{self._output}/")

    def _exists(self, part: IndexedPart) -> bool:
        """Return whether the output has a part file as it was when its keys were indexed."""
        info = self._files.get(part.name)
        return info is not None and bool(info.etag) and (info.size_bytes, info.etag) == (part.size_bytes, part.etag)

    def _parts(self) -> list[IndexedPart]:
        """Return the indexed part files that exist."""
        return [part for segment in self._segments for part in segment.existing()]
