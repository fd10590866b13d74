"""`mprm score`: every score of every rollout, for whoever wants to rank themselves."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import msgspec
import numpy as np

from experiments.console.command import answer
from experiments.console.corpus import CorpusOptions, load_usable
from experiments.console.errors import UsageError, bad_line_rows
from experiments.console.options import OptionalPath, wrong_usage
from experiments.console.text import count_of
from experiments.store.own_scores import places
from experiments.store.read_subset import load_subset
from experiments.store.write_subset import check_output, corpus_manifest
from mprm_jax.data.corpus import SelectableCorpus
from mprm_jax.data.outputs import Output, OutputSet, manifest_path
from mprm_jax.records.problems import DataError
from theory import scores
from theory.selection import RULE_NAMES, rule_key

# Rules that rank by no score of their own.
_UNSCORED = ("random", "mixed", "ccs", "step-matched-random", "low-mc")

_ROWS_PER_WRITE = 4096


@dataclasses.dataclass(frozen=True)
class Options(CorpusOptions):
    """Write every rollout's scores, one row each, in corpus order.

    Columns: file, line, id, source, row, n_steps, n_measured, n_positive, mean_mc, and
    one per scoring rule. A score that this corpus does not define (no Beta prior fits)
    is null and said. That of contrast, which depends on the budget, is the one without.

    With --subset there is a column kept, too: which rollouts mprm select chose.

    id is a hash of the record's bytes, the same wherever it lies: by it join columns of
    your own, which mprm select --scores then ranks by.

    Example: mprm score CORPUS --output scores.parquet

    Attributes:
        output: File to write: .jsonl, or .parquet with the parquet extra.
        alpha: BIS's alpha.
        subset: A subset of this corpus as mprm select wrote it: the file, or its
            manifest. How the corpus is read is taken from there.
    """

    output: Path = Path("runs/scores.jsonl")
    alpha: float = scores.DEFAULT_ALPHA
    subset: OptionalPath = None

    def __post_init__(self) -> None:
        super().__post_init__()
        with wrong_usage():
            scores.check_alpha(self.alpha)
        if self.output.suffix not in (".jsonl", ".parquet"):
            raise UsageError(
                f"--output must end in .jsonl or .parquet, not {self.output.name!r}"
            )


OPTIONS = Options


def run(options: Options) -> None:
    """Score and write."""
    check_output(options.output, options.corpus)
    subset = options.subset and load_subset(options, options.subset)
    usable = subset.usable if subset else load_usable(options)
    columns, undefined = score_columns(usable, options.alpha)
    if subset:
        chosen = np.isin(np.arange(len(usable.row)), subset.usable_rows)
        columns = {**dict(list(columns.items())[:4]), "kept": chosen, **columns}
    manifest = corpus_manifest(usable)
    manifest |= {"alpha": options.alpha}
    manifest |= {"columns": list(columns), "undefined": undefined}
    with OutputSet() as outputs:
        file = outputs.add(options.output)
        if options.output.suffix == ".parquet":
            _write_parquet(file, columns)
        else:
            _write_jsonl(file, columns)
        outputs.add_manifest(manifest_path(options.output), manifest)
    lines = [f"{name} is null throughout: {why}" for name, why in undefined.items()]
    kept = f", {len(subset.usable_rows):,} of them kept" if subset else ""
    lines += [f"wrote {count_of(len(usable.row), 'row')}{kept}: {options.output}"]
    value = {"output": str(options.output), "rows": len(usable.row)}
    value |= {"columns": list(columns), "undefined": undefined}
    value |= {"bad_lines": bad_line_rows(usable.bad_lines)}
    answer(options.json, value, "\n".join(lines))


def score_columns(
    usable: SelectableCorpus, alpha: float
) -> tuple[dict[str, np.ndarray | list[Any]], dict[str, str]]:
    """(column by name, reason by name of each score that is undefined here)."""
    rollouts = usable.rollouts
    columns: dict[str, np.ndarray | list[Any]] = {
        **places(usable),
        "source": [rollouts.source_names[i] for i in rollouts.source],
        "row": usable.row,
        "n_steps": rollouts.lengths,
        "n_measured": rollouts.n_measured,
        "n_positive": rollouts.n_positive,
        "mean_mc": scores.mean_mc(rollouts),
    }
    undefined = {}
    for rule in RULE_NAMES:
        if rule in _UNSCORED:
            continue
        name = {"reliable": "reliability"}.get(rule, rule.replace("-", "_"))
        try:
            columns[name] = rule_key(rule, rollouts, alpha)
        except ValueError as error:
            undefined[name] = str(error)
            columns[name] = [None] * rollouts.n_rollouts
    return columns, undefined


def _write_jsonl(file: Output, columns: dict[str, np.ndarray | list[Any]]) -> None:
    encode = msgspec.json.Encoder().encode
    for start in range(0, len(columns["row"]), _ROWS_PER_WRITE):
        place = slice(start, start + _ROWS_PER_WRITE)
        part = [
            column[place].tolist() if isinstance(column, np.ndarray) else column[place]
            for column in columns.values()
        ]
        for values in zip(*part, strict=True):
            file.write(encode(dict(zip(columns, values, strict=True))) + b"\n")


def _write_parquet(file: Output, columns: dict[str, np.ndarray | list[Any]]) -> None:
    try:
        import pyarrow as pa
        from pyarrow import parquet
    except ImportError:
        raise DataError(
            "a .parquet output needs the parquet extra: pip install 'mprm-jax[parquet]'"
        ) from None
    sink = pa.BufferOutputStream()
    parquet.write_table(pa.table(columns), sink)
    file.write(sink.getvalue().to_pybytes())
