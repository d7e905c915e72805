"""The event loop of one engine instance, one source for two uses (see `..kernel`).

Loaded under this name it is plain Python and starts at once; loaded a second time as
`loop_compiled` every function is compiled by numba.

One iteration is one scheduling decision and either one step that holds prompts, or as many pure
decoding steps as nothing can change in: until a sequence ends, a request arrives that could be
admitted, the cache runs full, or the context crosses a knot of the tables. Inside such a run the
step time is linear in the step's index, so its sum is an arithmetic series.
"""

if __name__.endswith("_compiled"):
    from .._borrow import borrowed, compiled  # pyright: ignore
else:

    def compiled(function):
        """Leave the function as it is."""
        return function

    def borrowed(record):
        """The record's arrays as views that read plain numbers: half the time of NumPy's scalars.

        A view shares its array's memory, so what the loop writes is seen outside.
        """
        return type(record)(*map(memoryview, record))


__all__ = ["borrowed", "compiled"]
