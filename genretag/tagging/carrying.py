"""Chooses the types of the manifest's columns that are carried through: the same every night, on every machine."""

import pyarrow as pa


def carried_fields(columns: pa.StructType, held: pa.Schema | None) -> tuple[pa.Field, ...]:
    """Return the carried columns as the output will have them; `held` is what it has already, None if nothing.

    Times keep the unit and the zone that the output has. A column without a single value (type `null`) has the type of
    the output's column, or is text where there is none yet. Other types are those of the manifest.
    """
    types = {} if held is None else {field.name: field.type for field in held}
    return tuple(column.with_type(_type(column.type, types.get(column.name))) for column in columns)


def _type(tonight: pa.DataType, held: pa.DataType | None) -> pa.DataType:
    if pa.types.is_null(tonight):
        return pa.string() if held is None else held
    if held is None or not (pa.types.is_timestamp(held) and pa.types.is_timestamp(tonight)):
        return tonight
    return held if (held.tz is None) == (tonight.tz is None) else tonight
