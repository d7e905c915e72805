"""How many bits to train in."""

from __future__ import annotations

from typing import ClassVar, final

from ..choice import Choice, MethodReport, best_size, law_of, outside, predict

BITS = (3, 4, 5, 6, 8, 12, 16)


@final
class Precision(Choice):
    """Loss at a budget by training precision, when cost falls with bits.

    Training costs (P / 16) 6 N D (Kumar et al., section 5): fewer bits buy more parameters or
    tokens and make each parameter count for less. Size and tokens are optimal for each P.

    References
    ----------
    Kumar et al. 2024, Scaling Laws for Precision, arXiv 2411.04330.
    """

    title: ClassVar[str] = "how many bits to train in"
    reference: ClassVar[str] = "Scaling Laws for Precision, arXiv 2411.04330"
    options: ClassVar[dict[str, tuple[float, str]]] = {
        "cost_exponent": (1.0, "exponent of bits in the cost of a FLOP; 1: speed doubles as bits "
                          "halve"),
    }  # fmt: skip

    def run(self, budget_flop: float, settings: dict[str, float]) -> MethodReport:
        published, law, theta = law_of("kumar-2024")
        records = []
        for bits in BITS:
            flop = budget_flop / (bits / 16.0) ** settings["cost_exponent"]

            def loss(n: float, flop: float = flop, bits: int = bits) -> float:
                return predict(law, theta, params=n, tokens=flop / (6.0 * n), bits_weight=bits,
                               bits_activation=bits, bits_kv=bits)  # fmt: skip

            n, value = best_size(loss)
            records.append({"bits": bits, "params": n, "tokens": flop / (6.0 * n), "loss": value})
        best = min(records, key=lambda r: r["loss"])
        wide = records[-1]
        return MethodReport(
            title=f"Training precision for {budget_flop:.3g} FLOP of 16-bit work",
            columns=("bits", "params", "tokens", "loss"), records=records,
            conclusion=f"{best['bits']} bits are best: loss {best['loss']:.4f} against "
            f"{wide['loss']:.4f} in 16."
            + outside(published, params=best["params"], tokens=best["tokens"]),
        )  # fmt: skip


CHOICE = Precision()
