"""Small faults to plant in a module, one at a time, read from its syntax tree.

Every operator applies wherever it can; left alone are only docstrings and annotations,
which no run reads.
"""

from __future__ import annotations

import ast
import copy
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

_ARITHMETIC: dict[type[ast.operator], type[ast.operator]] = {
    ast.Add: ast.Sub,
    ast.Sub: ast.Add,
    ast.Mult: ast.Div,
    ast.Div: ast.Mult,
    ast.FloorDiv: ast.Div,
    ast.Mod: ast.Mult,
    ast.Pow: ast.Mult,
    ast.MatMult: ast.Mult,
    ast.BitAnd: ast.BitOr,
    ast.BitOr: ast.BitAnd,
    ast.BitXor: ast.BitAnd,
    ast.LShift: ast.RShift,
    ast.RShift: ast.LShift,
}
_COMPARISONS: dict[type[ast.cmpop], tuple[type[ast.cmpop], ...]] = {
    ast.Lt: (ast.LtE, ast.GtE),
    ast.LtE: (ast.Lt, ast.Gt),
    ast.Gt: (ast.GtE, ast.LtE),
    ast.GtE: (ast.Gt, ast.Lt),
    ast.Eq: (ast.NotEq,),
    ast.NotEq: (ast.Eq,),
    ast.Is: (ast.IsNot,),
    ast.IsNot: (ast.Is,),
    ast.In: (ast.NotIn,),
    ast.NotIn: (ast.In,),
}


@dataclass(frozen=True)
class Mutant:
    """One fault.

    Attributes:
        site: position of the changed node in ``ast.walk`` of the module.
        variant: which of the faults possible there.
        operator: kind of the fault.
        line: of the changed node.
        before: the node's source.
        after: what takes its place.
    """

    site: int
    variant: int
    operator: str
    line: int
    before: str
    after: str


def mutants(source: str) -> list[Mutant]:
    """All faults of a module, in the order of its tree."""
    tree = ast.parse(source)
    unread = _unread(tree)
    found = []
    for site, node in enumerate(ast.walk(tree)):
        if id(node) in unread or not isinstance(node, ast.expr | ast.stmt):
            continue
        for variant, (operator, changed) in enumerate(_faults(node)):
            found.append(
                Mutant(
                    site,
                    variant,
                    operator,
                    node.lineno,
                    ast.unparse(node),
                    ast.unparse(changed),
                )
            )
    return found


def mutate(source: str, mutant: Mutant) -> str:
    """The module with that fault (and without its comments)."""
    tree = ast.parse(source)
    nodes = list(ast.walk(tree))
    target = nodes[mutant.site]
    changed = list(_faults(target))[mutant.variant][1]
    for parent in nodes:
        for field, value in ast.iter_fields(parent):
            if value is target:
                setattr(parent, field, changed)
            elif isinstance(value, list):
                value[:] = [changed if item is target else item for item in value]
    return ast.unparse(ast.fix_missing_locations(tree))


def _unread(tree: ast.AST) -> set[int]:
    """Nodes of docstrings, annotations and text between the fields of f-strings.

    (A change to the latter is made on the whole f-string.)
    """
    roots: list[ast.AST] = []
    inner: set[int] = set()
    for node in ast.walk(tree):
        body = getattr(node, "body", None)
        if isinstance(body, list) and body and _is_text(body[0]):
            roots.append(body[0])
        if isinstance(node, ast.arg | ast.AnnAssign) and node.annotation:
            roots.append(node.annotation)
        if isinstance(node, ast.FunctionDef) and node.returns:
            roots.append(node.returns)
        if isinstance(node, ast.JoinedStr):
            inner |= {id(x) for x in node.values if isinstance(x, ast.Constant)}
        if isinstance(node, ast.FormattedValue) and node.format_spec:
            roots.append(node.format_spec)
    return inner | {id(node) for root in roots for node in ast.walk(root)}


def _is_text(node: ast.AST) -> bool:
    return (
        isinstance(node, ast.Expr)
        and isinstance(node.value, ast.Constant)
        and isinstance(node.value.value, str)
    )


def _faults(node: ast.AST) -> Iterator[tuple[str, ast.AST]]:
    """(operator, what takes the node's place) for every fault possible at a node."""
    match node:
        case ast.BinOp(op=op) if type(op) in _ARITHMETIC:
            yield "arithmetic", _with(node, op=_ARITHMETIC[type(op)]())
        case ast.AugAssign(op=op) if type(op) in _ARITHMETIC:
            yield "arithmetic", _with(node, op=_ARITHMETIC[type(op)]())
            yield "statement", ast.Pass()
        case ast.UnaryOp(operand=operand):
            yield "unary", operand
        case ast.Compare(ops=ops):
            for i, op in enumerate(ops):
                for other in _COMPARISONS[type(op)]:
                    changed = _with(node)
                    changed.ops[i] = other()
                    yield "comparison", changed
        case ast.BoolOp(op=op):
            other = ast.Or() if isinstance(op, ast.And) else ast.And()
            yield "boolean", _with(node, op=other)
        case ast.Constant(value=value):
            yield from (("constant", ast.Constant(x)) for x in _others(value))
        case ast.JoinedStr():
            yield "constant", ast.Constant("")
        case ast.Call(args=args, keywords=keywords):
            for i in range(len(args) - 1):
                changed = _with(node)
                changed.args[i], changed.args[i + 1] = args[i + 1], args[i]
                yield "argument swap", changed
            for i, keyword in enumerate(keywords):
                if keyword.arg is not None:
                    changed = _with(node)
                    del changed.keywords[i]
                    yield "argument dropped", changed
        case ast.Return(value=value) if value is not None:
            yield "return", _with(node, value=ast.Constant(None))
        case ast.If(test=test) | ast.While(test=test) | ast.IfExp(test=test):
            yield "condition", _with(node, test=ast.UnaryOp(ast.Not(), test))
        case ast.Raise() | ast.Assert():
            yield "statement", ast.Pass()
        case ast.Expr(value=ast.Call()):
            yield "statement", ast.Pass()
        case ast.Break():
            yield "statement", ast.Continue()
        case ast.Continue():
            yield "statement", ast.Break()
        case ast.Slice(lower=lower, upper=upper, step=step):
            for name, bound in (("lower", lower), ("upper", upper), ("step", step)):
                if bound is not None:
                    yield "slice", _with(node, **{name: None})


def _with(node: ast.AST, **fields: ast.AST | None) -> Any:
    """A copy of a node with other fields."""
    changed = copy.deepcopy(node)
    for name, value in fields.items():
        setattr(changed, name, value)
    return changed


def _others(value: object) -> list[Any]:
    """Constants to take another's place."""
    if isinstance(value, bool):
        return [not value]
    if isinstance(value, int):
        return [value + 1, value - 1]
    if isinstance(value, float):
        return [2 * value if value else 1.0]
    if isinstance(value, str):
        return ["" if value else "XX"]
    return []
