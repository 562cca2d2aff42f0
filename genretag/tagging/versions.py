"""Which versions of an object were listed, and which the output holds, on the way from the worklist to the part files.

A store gives one version of an object, its newest. What the inventory names may be another one: an older, where it was
taken before an overwrite; one that a table of people wrote down; several. Predictions and failures have the etag that
was read, and `versions/` the others under which the object was listed, so that none of them is looked for again.
"""

from collections.abc import Mapping, Sequence

import pyarrow as pa

SCORED, FAILED = "scored", "failed"  # what became of a version that the output holds
HELD = {SCORED: "scored_etags", FAILED: "failed_etags"}  # columns of the worklist: lists of etags, null for none
LISTED = "listed_etags"  # of the worklist: all that were listed of one object, null for one; later those not read
ALREADY = "already"  # of a poster that was not decoded, since the output holds this version: SCORED or FAILED
LIST = pa.list_(pa.string())


def held_of(posters: pa.Table) -> Mapping[str, Mapping[str, str]]:
    """The etags that the output has rows of, and what those say, by URI; only for posters that have some."""
    held: dict[str, dict[str, str]] = {}
    for became, column in HELD.items():
        if column in posters.column_names and posters[column].null_count < len(posters):
            for uri, etags in zip(posters["uri"].to_pylist(), posters[column].to_pylist(), strict=True):
                if etags:
                    held[uri] = dict.fromkeys(etags, became) | held.get(uri, {})
    return held


def listed_and_not_read(posters: pa.Table, read: Sequence[str]) -> pa.Array:
    """The etags under which each poster was listed, less the one that was `read` and those unknown; null for none."""
    ones = posters["etag"].to_pylist()
    lists = posters[LISTED].to_pylist() if LISTED in posters.column_names else [None] * len(ones)
    others = [
        [etag for etag in (several or [one]) if etag not in ("", etag_read)]
        for one, several, etag_read in zip(ones, lists, read, strict=True)
    ]
    return pa.array([other or None for other in others], LIST)
