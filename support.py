"""The supported-operator page, made from the rules themselves: `python -m vtaflow.support`."""

from __future__ import annotations

from .frontend.converters import CONVERTERS
from .frontend.expanders import EXPANDERS
from .graph.device_forms import FORMS
from .schedules import TEMPLATES

HEAD = """\
# Supported operators

This page is written by `python -m vtaflow.support` from the import rules and the templates; a test
compares it with them. An operator without a rule for VTA runs on the host, in NumPy. `deploy`
prints for every node where it runs and why.

| ONNX operator | on VTA | on the host |
|---|---|---|
"""


FUSED = {
    "Relu": "fused into the layer before it",
    "Clip": "fused into the layer before it when its bounds are constant",
    "Add": "a constant is fused into the bias of the layer before it",
    "Sub": "a constant is fused into the bias of the layer before it",
    "Mul": "a constant is folded into the weights of the layer before or after it",
    "Div": "a constant is folded into the weights of the layer before or after it",
    "BatchNormalization": "folded into the layer before or after it",
    "Flatten": "free between layers: the weights of the next layer are reordered",
    "Identity": "dropped",
    "Dropout": "dropped",
    "DequantizeLinear": "taken out of quantised models, whose weights are quantised anew",
    "Max": "with a number it is a Clip",
    "Min": "with a number it is a Clip",
    "Pad": "zeros become padding of the layer after it",
    "QuantizeLinear": "taken out of quantised models, whose ranges are kept",
    "ReduceMax": "over height and width it is a GlobalMaxPool",
    "ReduceMean": "over height and width it is a GlobalAveragePool",
    "Reshape": "to features it is a Flatten",
    "Squeeze": "to features it is a Flatten",
    "Upsample": "imported as Resize",
}
"""What the simplifying passes make of operators around a layer."""


def page() -> str:
    """The page as Markdown."""
    rules: dict[str, list[str]] = {}
    for template in TEMPLATES:
        for operator in template.onnx_operators:
            summary = " ".join((template.accepts.__doc__ or "").split())
            rules.setdefault(operator, []).append(f"{template.name} template: {summary}")
    for operator, form in FORMS.items():
        summary = " ".join((form.__doc__ or "").split()).partition(": ")[2]
        rules[operator] = [f"as a layer: {summary.rstrip('.')}"]
    for operator, summary in FUSED.items():
        rules.setdefault(operator, []).insert(0, summary)
    for operator in EXPANDERS:
        rules[operator] = ["imported as the operators that it is made of"]
    rows = [
        f"| {name} | {'; '.join(rules.get(name, ['no']))} | yes |"
        for name in sorted((*CONVERTERS, *EXPANDERS))
    ]
    return HEAD + "\n".join(rows) + "\n"


if __name__ == "__main__":
    print(page(), end="")
