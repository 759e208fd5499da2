"""Arrays, series and tables of numpy, pandas, polars and pyarrow, converted completely to Python's own types."""

import sys

from .data import Refused, key_text

FINE_UNITS = ("ns", "ps", "fs", "as")  # of numpy's times: finer than datetime's, so that tolist() makes numbers of them


def plain_table(value, kind, package, path):
    """Converts a value of one of these packages; returns NotImplemented for other values."""
    if package == "pandas":
        return pandas_value(value, kind, path)
    if package == "numpy":
        return numpy_value(value)
    for method in ("to_dicts", "to_pylist", "to_list", "as_py"):
        if callable(getattr(kind, method, None)):
            return getattr(value, method)()
    return NotImplemented


def numpy_value(value):
    """Converts an array or a number of numpy."""
    dtype = getattr(value, "dtype", None)
    if dtype is None or not hasattr(value, "tolist"):
        return NotImplemented
    if dtype.names:
        rows = [dict(zip(dtype.names, row)) for row in (value.ravel() if value.ndim else [value])]
        return rows if value.ndim else rows[0]
    if dtype.kind in "mM" and sys.modules["numpy"].datetime_data(dtype)[0] in FINE_UNITS:
        value = value.astype(f"{dtype.kind}8[us]")
    if dtype.char in "gG":  # long double, which has no counterpart in Python
        value = value.astype("d" if dtype.char == "g" else "D")
    plain = value.tolist()
    return NotImplemented if type(plain) is type(value) else plain


def pandas_value(value, kind, path):
    """Converts a table to its rows, a column to its values, and pandas' own scalars."""
    name = kind.__name__
    if hasattr(kind, "iterrows"):
        labels = [label for label in value.index.names if label is not None]  # the groups of rows are data, too
        names = [".".join(map(str, column)) if type(column) is tuple else key_text(column, path, ())
                 for column in (*labels, *value.columns)]
        if len(set(names)) < len(names):
            raise Refused(path, "the table has two columns of one name", "rename one of them")
        if labels:
            value = value.reset_index(level=labels)
        return [dict(zip(names, row)) for row in value.itertuples(index=False, name=None)]
    if name in ("NaTType", "NAType"):
        return None
    if hasattr(kind, "total_seconds"):
        return value.total_seconds()
    if hasattr(kind, "isoformat"):
        return value.isoformat()
    if name in ("Period", "Interval"):
        return str(value)
    if hasattr(kind, "__array__"):  # Series, Index, Categorical and the other arrays
        return list(value)
    return value.to_dict() if hasattr(kind, "to_dict") else NotImplemented
