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
from .expanders import EXPANDERS, MICROSOFT, Signature
from .expansion import Expansion
from .structure import label
from .tensors import size_in_bytes

_SHAPE_BYTES = 2**16  # of a value worked out during import: shapes, axes and bounds are small
_SEVERAL = ("Split",)  # operators all of whose results are taken
_HOST = frozenset(each.name for each in OPERATORS)
_REASONS = {
    **dict.fromkeys(("If", "Loop", "Scan"), "holds subgraphs, which are not supported"),
    **dict.fromkeys(
        ("ConvInteger", "DynamicQuantizeLinear", "MatMulInteger"),
        "quantises at run time, which is not supported (export the float model)",
    ),
}


@dataclass
class Walk:
    """What is known so far about a model on the way through its nodes.

    `batched` names the values with a batch on axis 0, `broken` those that a problem already
    reported keeps from having a type, `used` those that a node or output reads, `taken` all
    names, of nodes too.
    """

    opset: int
    folder: Path | None
    used: Collection[str]
    constants: dict[str, Array]
    types: dict[str, TensorType]
    batched: set[str]
    broken: set[str]
    known: dict[str, Known]
    taken: set[str]
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

    def _schema(self, proto: onnx.NodeProto) -> onnx.defs.OpSchema | Signature:
        """What the operator takes at this opset, if vtaflow takes the operator."""
        kinds = {attribute.type for attribute in proto.attribute}
        if kinds & {AttributeProto.GRAPH, AttributeProto.GRAPHS}:
            raise Unsupported(_REASONS["If"])
        schema = self._signature(proto)
        if not schema.min_input <= len(proto.input) <= schema.max_input:
            raise ValueError(
                f"has {len(proto.input)} operands, takes {schema.min_input} to {schema.max_input}"
            )
        if not all(proto.input[: schema.min_input]):
            raise ValueError("a required operand is absent")
        if not any(proto.output[:1]):
            raise ValueError("makes no value")
        extra = [value for value in proto.output[1:] if value in self.used]
        if extra and proto.op_type not in _SEVERAL:
            raise Unsupported(f"its second result {extra[0]!r} is used, which is not supported")
        return schema

    def _signature(self, proto: onnx.NodeProto) -> onnx.defs.OpSchema | Signature:
        if proto.domain == "com.microsoft" and proto.op_type in MICROSOFT:
            return MICROSOFT[proto.op_type]
        if proto.domain not in ("", "ai.onnx"):
            raise Unsupported(f"domain {proto.domain!r} is not supported")
        known = proto.op_type in CONVERTERS or proto.op_type in EXPANDERS
        if proto.op_type != "Constant" and not known:
            raise Unsupported(_REASONS.get(proto.op_type, "operator is not supported"))
        if onnx.defs.has(proto.op_type, self.opset, ""):
            schema = onnx.defs.get_schema(proto.op_type, self.opset, "")
            if not schema.deprecated:
                return schema
        raise Unsupported(f"operator is not in opset {self.opset}")

    def _convert(
        self, proto: onnx.NodeProto, name: str, schema: onnx.defs.OpSchema | Signature
    ) -> None:
        if isinstance(schema, Signature):
            attributes = schema.attributes(proto)
        else:
            attributes = read_attributes(proto, schema)
        result = proto.output[0]
        if proto.op_type == "Constant":
            self._constant(result, constant_array(attributes, self.folder))
            return
        inputs = tuple(proto.input)
        while inputs and not inputs[-1]:
            inputs = inputs[:-1]
        results = tuple(proto.output) if proto.op_type in _SEVERAL else (result,)
        call = Call(self.opset, inputs, self.types, self.known, attributes, len(results))
        if proto.op_type in EXPANDERS:
            parts = Expansion(name, result, self.taken)
            EXPANDERS[proto.op_type](call, parts)
            for constant, array in parts.constants.items():
                self._constant(constant, array)
            for node in parts.nodes:
                self._add(node)
            return
        operands, attrs = CONVERTERS[proto.op_type](call)
        if not all(operands):
            raise Unsupported("an operand between others is absent")
        if not all(results):
            raise Unsupported("a result between others is absent")
        op = RENAMED.get(proto.op_type, proto.op_type)
        self._add(Node(name, op, operands, results, attrs, (name,)))

    def _constant(self, name: str, array: Array) -> None:
        self.constants[name] = array
        self.types[name] = type_of(array)
        self.known[name] = Known(array, array)

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
        for result in node.outputs:  # a name may be taken twice, which has been reported
            self.known.pop(result, None)
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
