"""`isoflop quantize`: what a number format does to a checkpoint's tensors."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

from cyclopts import Parameter

from ..errors import InvalidInput

_JSON = Annotated[bool, Parameter(name="--json", negative=(), help="Print JSON.")]
_FLAG = Parameter(negative=())
WORST_LAYERS = 12
SHOWN_BATCHES = (1, 8, 32, 64, 128, 256, 512)


def quantize(
    checkpoint: Path,
    /,
    *,
    format: str = "nvfp4",
    method: str = "rtn",
    calibration: Path | None = None,
    output: Path | None = None,
    packed: Annotated[bool, _FLAG] = False,
    resume: Annotated[bool, _FLAG] = False,
    include: str = "",
    exclude: str | None = None,
    compare: str = "",
    bits_per_weight: float | None = None,
    budget: str = "",
    all_layers: Annotated[bool, _FLAG] = False,
    model: str = "",
    on: str = "",
    plot: Path | None = None,
    json: _JSON = False,
) -> None:
    """Quantize a checkpoint's weight matrices and report error, bytes and outliers.

    Parameters
    ----------
    checkpoint
        A .safetensors file, a folder of them, or the index of a sharded checkpoint; `demo` for a
        small generated one.
    format
        A number format, see `isoflop formats list`. With --compare, the first of several.
    method
        rtn, clip, gptq, gptq-act-order, babai, hptq, ssqr, awq, smoothquant, seedlm...
    calibration
        A .safetensors file with layer inputs of shape (rows, in) under the weights' names.
    output
        Where to write the quantized checkpoint (a folder if the checkpoint is one).
    packed
        Write code words and scales instead of values in the original type.
    resume
        Continue an interrupted run that wrote to the same output.
    include, exclude
        Regular expressions that choose tensors by name.
    compare
        Formats separated by commas: report each one's bits and error and which are not dominated.
    bits_per_weight, budget
        With --compare: choose a format per layer by integer programming, least total error within
        an average number of bits, or within bytes such as "4 GiB".
    all_layers
        Print every layer, not only those with the largest error.
    model, on
        A catalog model and a device: also say what the format buys there, batch by batch.
    plot
        Draw error and outliers by layer, or with --compare bits against error: .svg, .png, .html.
    """
    if str(checkpoint) == "demo":
        from tempfile import TemporaryDirectory

        from ..numerics.demo import write_demo

        with TemporaryDirectory() as folder:
            made = Path(folder)
            weights, inputs = write_demo(made)
            quantize(
                weights, format=format, method=method, calibration=calibration or inputs,
                output=output, packed=packed, resume=resume, include=include, exclude=exclude,
                compare=compare, bits_per_weight=bits_per_weight, budget=budget,
                all_layers=all_layers, model=model, on=on, plot=plot, json=json,
            )  # fmt: skip
        return
    from ._output import check_chart

    check_chart(plot)
    if bool(model) != bool(on):
        raise InvalidInput("What a format buys on hardware needs both --model and --on.")
    from ..numerics.checkpoint import EXCLUDE, Settings, check_shapes, files_of, write_index
    from ..numerics.safetensors import SafetensorsFile

    effect = _effect(model, on, format) if on else None

    files = files_of(checkpoint)
    settings = Settings(
        format=format, method=method, packed=packed, include=include,
        exclude=EXCLUDE if exclude is None else exclude,
    )  # fmt: skip
    if compare:
        settings = _compared(
            files, compare, settings, calibration, bits_per_weight, budget, json, plot
        )
        plot = None
        if settings is None or output is None:
            return
    elif bits_per_weight is not None or budget:
        raise InvalidInput(
            "A byte budget needs formats to choose from. Add --compare nvfp4,mxfp8-e4m3,bf16."
        )
    check_shapes(map(SafetensorsFile, files), settings)
    targets = [_output_of(file, checkpoint, output) for file in files]
    reports = [_run(f, settings, calibration, t, resume) for f, t in zip(files, targets)]
    if len(written := [t for t in targets if t is not None]) > 1:
        write_index(written)
    _print(reports, json, all_layers, output, effect)
    if plot is not None:
        from ..plots.numerics import layers_chart
        from ._output import write_chart

        rows = [row for report in reports for row in report.rows()]
        write_chart(layers_chart(rows, f"{settings.format} by {settings.method}"), plot, quiet=json)


def _effect(model: str, on: str, format: str) -> dict[str, Any]:
    """What a weight format buys: bytes, and step time by batch against bf16."""
    from ..advice.explain import BATCHES
    from ..advice.sections import weight_gain
    from .explain import build_step

    wide = build_step(model, on, "", "bf16", "", "bf16", "default")
    gains = weight_gain(wide, _catalog_name(format), BATCHES)
    return {"model": wide.model.name, "device": wide.device.name, "batches": list(BATCHES),
            **gains}  # fmt: skip


def _catalog_name(format: str) -> str:
    """The cost engine's entry for an emulated format: its exact id, or the closest kind."""
    from ..catalog import paths

    known = paths("formats")
    if format in known:
        return format
    stem = format.split("-")[0].replace("_e4m3", "").replace("_e5m2", "")
    if stem in known:
        return stem
    raise InvalidInput(
        f"The cost engine has no entry for '{format}'. See `isoflop catalog list formats`."
    )


def _output_of(file: Path, checkpoint: Path, output: Path | None) -> Path | None:
    if output is None or file == checkpoint:
        return output
    try:
        output.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise InvalidInput(f"'{output}' cannot be made a folder: {error.strerror}.") from None
    return output / file.name


def _run(file, settings, calibration, output, resume):
    from rich.console import Console
    from rich.progress import MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    from ..numerics.checkpoint import quantize_file

    columns = (MofNCompleteColumn(), TextColumn("{task.description}"), TimeRemainingColumn())
    with Progress(*columns, console=Console(stderr=True), transient=True) as bar:
        task = bar.add_task(file.name)

        def progress(done: int, total: int, name: str) -> None:
            bar.update(task, completed=done, total=total, description=name)

        return quantize_file(
            file, settings, calibration=calibration, output=output, resume=resume,
            progress=progress,
        )  # fmt: skip


def _compared(files, compare, settings, calibration, bits_per_weight, budget, json, plot):
    """Print the comparison; with a budget, return settings with one format per layer."""
    from attrs import evolve

    from ..numerics.mixed import choose, totals
    from ..numerics.quantizers import load_weight_format
    from ..units import parse

    names = [name.strip() for name in compare.split(",") if name.strip()]
    for name in names:
        load_weight_format(name)
    runs = [
        [_run(f, evolve(settings, format=name, packed=False), calibration, None, False)
         for f in files]
        for name in names
    ]  # fmt: skip
    table = totals(names, runs)
    limit = parse(budget, "bytes", "the budget") if budget else None
    chosen = None
    if limit is not None or bits_per_weight is not None:
        chosen = choose(names, runs, budget_bytes=limit, bits_per_weight=bits_per_weight)
    _print_comparison(table, chosen, settings.method, json)
    if plot is not None:
        from ..plots.numerics import pareto_chart
        from ._output import write_chart

        write_chart(pareto_chart(table, f"Formats by {settings.method}"), plot, quiet=json)
    if chosen is None:
        return None
    return evolve(settings, per_layer=chosen.formats)


def _print_comparison(rows, chosen, method, json) -> None:
    from ..units import show_bytes
    from ._output import console, print_json, table

    if json:
        print_json({"formats": rows, "allocation": chosen.row() if chosen else None})
        return
    cells = [
        [r["format"], f"{r['bits_per_weight']:.4f}", f"{r['relative_rmse']:.4f}",
         f"{r['relative_output_rmse']:.4f}", f"{r['sqnr_db']:.2f}",
         show_bytes(r["storage_bytes"]), "yes" if r["undominated"] else ""]
        for r in rows
    ]  # fmt: skip
    head = ["format", "bits/weight", "rel. RMSE", "output RMSE", "SQNR dB", "bytes", "Pareto"]
    console().print(table(f"Formats by method {method}", head, cells))
    if chosen:
        counts = [[name, str(n)] for name, n in chosen.counts.items()]
        console().print(
            f"Allocation: {chosen.bits_per_weight:.4f} bits per weight, "
            f"{show_bytes(chosen.storage_bytes)}, summed relative error {chosen.error:.4g}."
        )
        console().print(table("", ["format", "layers"], counts))


def _print(
    reports: Any, json: bool, all_layers: bool, output: Path | None, effect: dict[str, Any] | None
) -> None:
    from ..numerics.mixed import total_of
    from ..numerics.report import measures
    from ..units import show_bytes
    from ._output import console, print_json, table

    layers = [row for report in reports for row in report.rows()]
    total = total_of(reports)
    if json:
        kept = [name for report in reports for name in report.kept]
        print_json({"layers": layers, "total": measures(total), "kept": kept, "hardware": effect})
        return
    layers.sort(key=lambda r: -r["relative_output_rmse"])
    shown = layers if all_layers else layers[:WORST_LAYERS]
    head = ["layer", "output", "weight", "SQNR dB", "max", "cosine", "bits", "outliers", "peak"]
    cells = [
        [r["name"].removesuffix(".weight").removeprefix("model."),
         f"{r['relative_output_rmse']:.4f}",
         f"{r['relative_rmse']:.4f}", f"{r['sqnr_db']:.2f}", f"{r['max_error']:.2g}",
         f"{r['cosine']:.4f}", f"{r['bits_per_weight']:.3f}", str(r["outliers"]),
         f"{r['peak_over_rms']:.1f}"]
        for r in shown
    ]  # fmt: skip
    report = reports[0]
    out = console()
    out.print(
        table(
            f"{report.format} by {report.method}: relative RMSE of output and weight", head, cells
        )
    )
    if len(shown) < len(layers):
        out.print(f"({len(layers) - len(shown)} more layers; --all-layers prints them)")
    kept = sum(r.kept_bytes for r in reports)
    out.print(
        f"Total of {len(layers)} layers: relative RMSE {total.relative_rmse:.4f}, SQNR "
        f"{total.sqnr_db:.2f} dB, cosine {total.cosine:.5f}, output RMSE "
        f"{total.relative_output_rmse:.4f}; {total.bits_per_weight:.4f} bits per weight, "
        f"{show_bytes(total.original_bytes)} to {show_bytes(total.storage_bytes)} "
        f"({total.storage_bytes} bytes), {show_bytes(kept)} kept."
    )
    if not all(r["calibrated"] for r in layers):
        out.print("Output RMSE of layers without calibration inputs is their weight error.")
    for report in reports:
        for note, count in report.notes.items():
            out.print(f"Note ({count} layers): {note}")
    if effect is not None:
        _print_effect(effect)
    if output is not None:
        out.print(f"Written to {output}.")


def _print_effect(effect: dict[str, Any]) -> None:
    from ..units import show_bytes, show_s
    from ._output import console, table

    at = [i for i, b in enumerate(effect["batches"]) if b in SHOWN_BATCHES]
    rows = [
        ["bf16", show_bytes(effect["wide_bytes"]), *(show_s(effect["wide_s"][i]) for i in at)],
        [effect["format"], show_bytes(effect["bytes"]),
         *(show_s(effect["seconds"][i]) for i in at)],
        ["gain", f"{effect['wide_bytes'] / effect['bytes']:.2f}x",
         *(f"{effect['gain'][i]:.2f}x" for i in at)],
    ]  # fmt: skip
    title = f"What it buys for {effect['model']} on {effect['device']}: step time by batch"
    console().print(table(title, ["weights", "bytes", *(str(effect["batches"][i]) for i in at)],
                          rows))  # fmt: skip
    until = effect["pays_until"]
    console().print(
        f"It pays up to batch {until}."
        if until
        else "It pays at no batch: the device gains neither bytes that matter nor a faster rate."
    )
