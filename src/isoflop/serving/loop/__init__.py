"""The event loop of one engine instance, one source for two uses (see `..kernel`).

Loaded under this name it is plain Python and starts at once; loaded a second time as
`loop_compiled` every function is compiled by numba.

One iteration is one scheduling decision and either one step that holds prompts, or as many pure
decoding steps as nothing can change in: until a sequence ends, a request arrives that could be
admitted, the cache runs full, or the context crosses a knot of the tables. Inside such a run the
step time is linear in the step's index, so its sum is an arithmetic series.
"""

if __name__.endswith("_compiled"):
    from .._borrow import below, borrowed, compiled, returned  # pyright: ignore
else:
    from bisect import bisect_right

    def compiled(function):
        """Leave the function as it is."""
        return function

    def borrowed(record):
        """The record's arrays as views that read plain numbers: half the time of NumPy's scalars.

        A view shares its array's memory, so what the loop writes is seen outside; counters, which
        every line reads, are lists meanwhile, a third of the time again. See `returned`.
        """
        views = type(record)(*map(memoryview, record))
        if not hasattr(record, "whole"):
            return views
        return views._replace(whole=record.whole.tolist(), real=record.real.tolist())

    def returned(record, views):
        """Write the counters of a borrowed state back."""
        record.whole[:] = views.whole
        record.real[:] = views.real

    def below(grid, value):
        """Index of the knot at or below `value`, at most the last but one."""
        return bisect_right(grid, value, 1, len(grid) - 1) - 1


__all__ = ["below", "borrowed", "compiled", "returned"]
