"""The walk over the nodes of an ONNX graph: each becomes a typed node, a constant or a problem."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass, field
from pathlib import Path

import onnx
from onnx import AttributeProto

from ..graph.graph import Node, infer_node
from ..graph.known import Known, derive
from ..ops import OPERATORS
from ..ops.types import Array, TensorType, type_of
from .batch_axis import Seen, batch_problem
from .call import Call, Unsupported, read_attributes
from .constant import constant_array
from .converters import CONVERTERS, RENAMED
from .structure import label
from .tensors import size_in_bytes

_SHAPE_BYTES = 2**16  # of a value worked out during import: shapes, axes and bounds are small
_SEVERAL = ("Split",)  # operators all of whose results are taken
_HOST = frozenset(each.name for each in OPERATORS)
_REASONS = {
    **dict.fromkeys(("If", "Loop", "Scan"), "holds subgraphs, which are not supported"),
    **dict.fromkeys(
        ("QuantizeLinear", "DequantizeLinear", "DynamicQuantizeLinear"),
        "belongs to a quantised model, which is not supported (export the float model)",
    ),
}


@dataclass
class Walk:
    """What is known so far about a model on the way through its nodes.

    `batched` names the values with a batch on axis 0, `broken` those that a problem already
    reported keeps from having a type, `used` those that a node or output reads.
    """

    opset: int
    folder: Path | None
    used: Collection[str]
    constants: dict[str, Array]
    types: dict[str, TensorType]
    batched: set[str]
    broken: set[str]
    known: dict[str, Known]
    nodes: list[Node] = field(default_factory=list)
    problems: list[str] = field(default_factory=list)

    def visit(self, proto: onnx.NodeProto, name: str) -> None:
        """Take in one node; those that its operands come from have been visited."""
        try:
            schema = self._schema(proto)
            if not self.broken.intersection(proto.input):
                self._convert(proto, name, schema)
                return
        except Unsupported as error:
            evaluated = proto.op_type in _HOST and proto.op_type not in CONVERTERS
            host = "the host could run it" if evaluated else "the host cannot run it either"
            self.problems.append(f"{label(proto, name)}: {error}; {host}")
        except ValueError as error:
            self.problems.append(f"{label(proto, name)}: {error}")
        for value in filter(None, proto.output):
            self.broken.add(value)
            self.types.pop(value, None)

    def _schema(self, proto: onnx.NodeProto) -> onnx.defs.OpSchema:
        """The operator's schema at this opset, if vtaflow takes the operator."""
        if proto.domain not in ("", "ai.onnx"):
            raise Unsupported(f"domain {proto.domain!r} is not supported")
        kinds = {attribute.type for attribute in proto.attribute}
        if kinds & {AttributeProto.GRAPH, AttributeProto.GRAPHS}:
            raise Unsupported(_REASONS["If"])
        if proto.op_type != "Constant" and proto.op_type not in CONVERTERS:
            raise Unsupported(_REASONS.get(proto.op_type, "operator is not supported"))
        schema = onnx.defs.get_schema(proto.op_type, self.opset, "")
        if not schema.min_input <= len(proto.input) <= schema.max_input:
            raise ValueError(
                f"has {len(proto.input)} operands, takes {schema.min_input} to {schema.max_input}"
            )
        if not all(proto.input[: schema.min_input]):
            raise ValueError("a required operand is absent")
        if not any(proto.output[:1]):
            raise ValueError("makes no value")
        extra = [value for value in proto.output[1:] if value in self.used]
        if extra:
            raise Unsupported(f"its second result {extra[0]!r} is used, which is not supported")
        return schema

    def _convert(self, proto: onnx.NodeProto, name: str, schema: onnx.defs.OpSchema) -> None:
        attributes = read_attributes(proto, schema)
        result = proto.output[0]
        if proto.op_type == "Constant":
            array = constant_array(attributes, self.folder)
            self.constants[result] = array
            self.types[result] = type_of(array)
            self.known[result] = Known(array, array)
            return
        inputs = tuple(proto.input)
        while inputs and not inputs[-1]:
            inputs = inputs[:-1]
        results = tuple(proto.output) if proto.op_type in _SEVERAL else (result,)
        call = Call(self.opset, inputs, self.types, self.known, attributes, len(results))
        operands, attrs = CONVERTERS[proto.op_type](call)
        for what, values in (("operand", operands), ("result", results)):
            if not all(values):
                raise Unsupported(f"an {what} between others is absent".replace("an r", "a r"))
        op = RENAMED.get(proto.op_type, proto.op_type)
        self._add(Node(name, op, operands, results, attrs, (name,)))

    def _add(self, node: Node) -> None:
        """Type `node` and see that its results have a size and keep the batch apart."""
        infer_node(node, self.types)
        kinds = {result: self.types[result] for result in node.outputs}
        for kind in kinds.values():
            try:
                size_in_bytes(kind.shape, kind.dtype)
            except ValueError as error:
                raise ValueError(f"its result {error}") from None
        known = derive(node, self.types, self.known, _SHAPE_BYTES)
        self.known.update(known)
        for kind in kinds.values():
            if 0 in kind.shape and not known:
                raise ValueError(f"its result {list(kind.shape)} has a size of 0")
        if self.batched.intersection(node.inputs) and node.op != "Shape":
            problem = batch_problem(Seen(node, self.types, self.batched))
            if problem:
                raise ValueError(problem)
            self.batched.update(node.outputs)
        self.nodes.append(node)
