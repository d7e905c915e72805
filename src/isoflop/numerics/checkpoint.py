"""Quantize a safetensors checkpoint layer by layer: bounded memory, progress, resume."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from attrs import asdict, frozen

from ..errors import InvalidInput, IsoflopError
from . import quantizers
from .formats import BlockFormat
from .packing import pack
from .quantizers import Calibration, load_weight_format
from .report import LayerReport, QuantizationReport, Sums, compare, outlier_map
from .safetensors import FLOATS, SafetensorsFile, TensorInfo, Writer, to_words

EXCLUDE = r"embed|wte|wpe|lm_head|norm|ln_|router"
"""Tensors kept as they are unless told otherwise: embeddings, output head, norms, routers."""

MIN_WIDTH = 32
CALIBRATION_ROWS = 4096
"""Rows of calibration inputs in memory at a time."""
_SCALE_WORDS = {"fp16": "F16", "fp32": "F32"}

Progress = Callable[[int, int, str], None]


@frozen(kw_only=True)
class Settings:
    """How a checkpoint is quantized.

    Attributes
    ----------
    format : str
        Number format of every layer that `per_layer` does not name.
    method : str
        A quantizer's name.
    include, exclude : str
        Regular expressions searched in tensor names.
    packed : bool
        Write code words and scales instead of values in the original dtype.
    """

    format: str
    method: str = "rtn"
    per_layer: Mapping[str, str] = {}
    include: str = ""
    exclude: str = EXCLUDE
    packed: bool = False

    def __attrs_post_init__(self) -> None:
        for pattern in (self.include, self.exclude):
            try:
                re.compile(pattern)
            except re.error as error:
                raise InvalidInput(f"'{pattern}' is no regular expression: {error}.") from None
        load_weight_format(self.format)
        quantizers.load(self.method)

    def selects(self, info: TensorInfo) -> bool:
        """Whether a tensor is quantized: a float matrix, wide enough, with a chosen name."""
        return (
            info.dtype in FLOATS
            and len(info.shape) == 2
            and min(info.shape) >= MIN_WIDTH
            and bool(re.search(self.include, info.name))
            and not (self.exclude and re.search(self.exclude, info.name))
        )

    def format_of(self, name: str) -> Any:
        """The format record of a tensor."""
        return load_weight_format(self.per_layer.get(name, self.format))

    def identity(self) -> str:
        """Text that two runs must share for one to resume the other."""
        return json.dumps(asdict(self) | {"per_layer": dict(self.per_layer)}, sort_keys=True)


class CalibrationFile:
    """Layer inputs in a safetensors file, under the weight's name, with or without `.weight`."""

    def __init__(self, path: str | Path | None):
        self.file = SafetensorsFile(path) if path else None

    def of(self, info: TensorInfo) -> Calibration:
        """Second moments of a layer's inputs; the identity where the file has none."""
        width = info.shape[1]
        if self.file is None:
            return Calibration.identity(width)
        for name in (info.name, info.name.removesuffix(".weight")):
            if name in self.file.tensors:
                shape = self.file.tensors[name].shape
                if len(shape) < 2 or shape[-1] != width:
                    raise InvalidInput(
                        f"Calibration inputs '{name}' have shape {shape}; the layer takes "
                        f"{width} values per row."
                    )
                return Calibration.streamed(self.file.row_chunks(name, CALIBRATION_ROWS))
        return Calibration.identity(width)


def quantize_layer(
    file: SafetensorsFile, info: TensorInfo, settings: Settings, calibration: CalibrationFile
) -> tuple[Any, LayerReport]:
    """Quantize one tensor; errors name it."""
    fmt = settings.format_of(info.name)
    try:
        weight = file.float32(info.name)
        moments = calibration.of(info)
        result = quantizers.load(settings.method).quantize(weight, fmt, moments)
    except IsoflopError as error:
        raise _in_tensor(file, info, error) from None
    peak, channels = outlier_map(weight)
    report = LayerReport(
        name=info.name, shape=info.shape, format=fmt.name, method=settings.method,
        sums=compare(weight, result, moments, info.end - info.begin),
        calibrated=bool(moments.rows), peak_over_rms=peak, outlier_channels=channels,
        facts=result.facts, notes=result.notes,
    )  # fmt: skip
    return result, report


def _in_tensor(file: SafetensorsFile, info: TensorInfo, error: IsoflopError) -> InvalidInput:
    return InvalidInput(f"In the tensor '{info.name}' of '{file.path}': {error}")


def quantize_file(
    path: str | Path,
    settings: Settings,
    *,
    calibration: str | Path | None = None,
    output: str | Path | None = None,
    resume: bool = False,
    progress: Progress | None = None,
) -> QuantizationReport:
    """Quantize one safetensors file, keeping one tensor in memory at a time.

    With `output`, results go to `<output>.partial` and finished layers to `<output>.progress`;
    when all is done the file is moved into place. `resume` continues an interrupted run, also one
    that a tensor stopped, if earlier layers were finished; else nothing of it stays.

    Raises
    ------
    InvalidInput, UnknownName
        Naming the tensor and the place.
    """
    file = SafetensorsFile(path)
    check_shapes([file], settings)
    moments = CalibrationFile(calibration)
    chosen = [t for t in file.tensors.values() if settings.selects(t)]
    if not chosen:
        raise InvalidInput(
            f"No tensor of '{path}' is a float matrix of at least {MIN_WIDTH} by {MIN_WIDTH} that "
            f"matches '{settings.include}' and not '{settings.exclude}'. Adjust the patterns."
        )
    kept = [t for t in file.tensors.values() if not settings.selects(t)]
    sink = _Sink(file, settings, output, resume) if output else None
    reports = []
    try:
        for at, info in enumerate(chosen):
            if progress:
                progress(at, len(chosen), info.name)
            done = sink.done.get(info.name) if sink else None
            if done is None:
                result, done = quantize_layer(file, info, settings, moments)
                if sink:
                    sink.put(info, result, done)
            reports.append(done)
        if sink:
            for info in kept:
                sink.writer.write(info.name, file.raw(info.name))
            sink.finish()
    except IsoflopError as error:
        if sink:
            sink.writer.close()
            raise InvalidInput(f"{error}{sink.refused()}") from None
        raise
    finally:
        if sink:
            sink.writer.close()
    if progress:
        progress(len(chosen), len(chosen), "")
    return QuantizationReport(
        source=str(path), format=settings.format, method=settings.method, layers=tuple(reports),
        kept=tuple(t.name for t in kept), kept_bytes=sum(t.end - t.begin for t in kept),
    )  # fmt: skip


class _Sink:
    """The output file and its journal."""

    def __init__(self, file: SafetensorsFile, settings: Settings, output, resume: bool):
        self.settings = settings
        self.journal, self.partial = Path(f"{output}.progress"), Path(f"{output}.partial")
        if Path(output).resolve() == file.path.resolve():
            raise InvalidInput(f"The output '{output}' is the input. Choose another file.")
        layout: dict[str, tuple[str, tuple[int, ...]]] = {}
        for info in file.tensors.values():
            if settings.packed and settings.selects(info):
                layout |= packed_layout(info, settings.format_of(info.name))
            else:
                layout[info.name] = (info.dtype, info.shape)
        metadata = {str(k): str(v) for k, v in file.metadata.items()}
        metadata |= {"isoflop": settings.identity(), "isoflop_source_bytes": _stamp(file)}
        self.done = self._read() if resume else {}
        if not resume:
            self.journal.unlink(missing_ok=True)
        self.writer = Writer(output, layout, metadata, resume=resume)

    def _read(self) -> dict[str, LayerReport]:
        if not self.journal.exists() or not self.partial.exists():
            return {}
        done = {}
        for line in self.journal.read_text(encoding="utf-8").splitlines():
            try:
                record = json.loads(line)
            except ValueError:
                break  # the line an interruption cut off
            record["sums"] = Sums(**record["sums"])
            for key in ("shape", "outlier_channels", "notes"):
                record[key] = tuple(record[key])
            done[record["name"]] = LayerReport(**record)
        return done

    def put(self, info: TensorInfo, result: Any, report: LayerReport) -> None:
        """Write a layer, then say so in the journal."""
        if self.settings.packed:
            for name, words in packed_words(info.name, result).items():
                self.writer.write(name, words)
        else:
            self.writer.write(info.name, to_words(result.values, info.dtype))
        with self.journal.open("a", encoding="utf-8") as journal:
            journal.write(json.dumps(asdict(report)) + "\n")

    def refused(self) -> str:
        """Drop a partial file without a finished layer; else the sentence that says where it is."""
        finished = len(self._read())
        if finished:
            where = f"in '{self.partial}'; --resume goes on from there."
            return f" Finished layers ({finished}) are {where}"
        self.journal.unlink(missing_ok=True)
        self.partial.unlink(missing_ok=True)
        return ""

    def finish(self) -> None:
        """Move the file into place and drop the journal."""
        self.writer.finish()
        self.journal.unlink(missing_ok=True)


def _stamp(file: SafetensorsFile) -> str:
    return str(file.path.stat().st_size)


def packed_layout(info: TensorInfo, fmt: Any) -> dict[str, tuple[str, tuple[int, ...]]]:
    """Tensors that a packed layer becomes: codes, scales, zero points, tensor scale."""
    if not isinstance(fmt, BlockFormat) or fmt.element.bits > 8:
        raise InvalidInput(
            f"'{fmt.name}' cannot be written packed: codes of up to 8 bits with block scales can. "
            "Write values instead."
        )
    rows, columns = info.shape
    blocks = columns // fmt.check_row(columns)
    scale_type = _SCALE_WORDS.get(fmt.scale.name, "U8")
    layout: dict[str, tuple[str, tuple[int, ...]]] = {
        f"{info.name}.codes": ("U8", (rows, -(-columns * fmt.element.bits // 8))),
        f"{info.name}.scales": (scale_type, (rows, blocks)),
    }
    if fmt.zero_point:
        layout[f"{info.name}.zero_points"] = ("U8", (rows, -(-blocks * fmt.element.bits // 8)))
    if fmt.two_level:
        layout[f"{info.name}.tensor_scale"] = ("F32", (1,))
    return layout


def packed_words(name: str, result: Any) -> dict[str, np.ndarray]:
    """The words of a packed layer."""
    from .rounding import encode

    if result.blocks is None:
        raise InvalidInput(
            f"The method's result for '{name}' is not one table of codes and scales, so it cannot "
            "be written packed. Write values instead."
        )
    blocks = result.blocks
    fmt = blocks.format
    scales = blocks.scales
    if fmt.scale.name not in _SCALE_WORDS:
        scales = encode(scales, fmt.scale)
    words = {
        f"{name}.codes": pack(blocks.codes, fmt.element.bits),
        f"{name}.scales": scales,
    }
    if blocks.zero_points is not None:
        mask = (1 << fmt.element.bits) - 1
        zeros = (blocks.zero_points.astype(np.int64) & mask).astype(np.uint8)
        words[f"{name}.zero_points"] = pack(zeros, fmt.element.bits)
    if fmt.two_level:
        words[f"{name}.tensor_scale"] = np.array([blocks.tensor_scale], np.float32)
    return words


def unpack_layer(file: SafetensorsFile, name: str, fmt: Any, columns: int) -> np.ndarray:
    """Values (float32) of a packed layer, for checking and for loading."""
    from .blocks import Blocks
    from .packing import unpack
    from .rounding import decode

    codes = unpack(file.raw(f"{name}.codes"), fmt.element.bits, columns)
    if fmt.scale.name in _SCALE_WORDS:
        scales = file.float32(f"{name}.scales")
    else:
        scales = decode(np.array(file.raw(f"{name}.scales")), fmt.scale)
    zeros = None
    if fmt.zero_point:
        packed = file.raw(f"{name}.zero_points")
        zeros = fmt.element.decode(unpack(packed, fmt.element.bits, scales.shape[-1]))
    tensor = float(file.raw(f"{name}.tensor_scale")[0]) if fmt.two_level else 1.0
    return Blocks(
        format=fmt, codes=codes, scales=scales, zero_points=zeros, tensor_scale=tensor
    ).decode()


def check_shapes(files: Iterable[SafetensorsFile], settings: Settings) -> None:
    """Refuse rows that a format's blocks do not divide, from the headers: before anything is done.

    Raises
    ------
    InvalidInput
        Naming the tensor, its file and the block.
    """
    for file in files:
        for info in file.tensors.values():
            if not settings.selects(info):
                continue
            fmt = settings.format_of(info.name)
            if isinstance(fmt, BlockFormat):
                try:
                    fmt.check_row(info.shape[1])
                except InvalidInput as error:
                    raise _in_tensor(file, info, error) from None


INDEX = ".safetensors.index.json"


def files_of(path: str | Path) -> list[Path]:
    """The safetensors files of a path: itself, those of a folder, or those that an index names.

    Raises
    ------
    InvalidInput
        If a folder has none, an index cannot be read, or a file that it names is absent.
    """
    path = Path(path)
    if path.is_dir():
        indices = sorted(path.glob(f"*{INDEX}"))
        found = sorted(path.glob("*.safetensors"))
        if not indices:
            if not found:
                raise InvalidInput(f"The folder '{path}' has no .safetensors file.")
            return found
        path = indices[0]
    if not path.name.endswith(INDEX):
        return [path]
    try:
        names = sorted(set(json.loads(path.read_text(encoding="utf-8"))["weight_map"].values()))
    except OSError as error:
        raise InvalidInput(f"The index '{path}' cannot be read: {error.strerror}.") from None
    except (ValueError, KeyError, TypeError, AttributeError):
        raise InvalidInput(
            f"'{path}' is not an index of safetensors files: it has no table 'weight_map'."
        ) from None
    absent = [n for n in names if not (path.parent / n).is_file()]
    if absent:
        raise InvalidInput(
            f"{len(absent)} of the {len(names)} files that '{path}' names are absent: "
            f"{', '.join(absent[:3])}{', ...' if len(absent) > 3 else ''}. Download them again."
        )
    return [path.parent / n for n in names]


def write_index(files: Sequence[Path]) -> Path:
    """The index of files in one folder, as loaders of sharded checkpoints read it."""
    where, total = {}, 0
    for path in files:
        for info in SafetensorsFile(path).tensors.values():
            where[info.name] = path.name
            total += info.end - info.begin
    index = files[0].parent / f"model{INDEX}"
    text = json.dumps({"metadata": {"total_size": total}, "weight_map": where}, indent=2)
    index.write_text(text + "\n", encoding="utf-8")
    return index
