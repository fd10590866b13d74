"""The released selection rules, written out plainly with the standard library.

The baseline that `mprm select` is timed against, and the oracle of its tests: short and
obvious, a file at a time in memory, one ``json.loads`` per line. It raises wherever the
release would crash.

    python -m tests.official_baseline FOLDER OUTPUT.jsonl [RATIO]
"""

from __future__ import annotations

import json
import sys
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

DEFAULT_ALPHA = 0.05


def number(score: Any) -> float | None:
    """The score as a float, None if it does not count."""
    try:
        return float(score)
    except (TypeError, ValueError):
        return None


def add(values: Iterable[float]) -> float:
    """Left-to-right sum; ``sum`` compensates for rounding since Python 3.12."""
    total = 0.0
    for value in values:
        total = total + value
    return total


def bis(scores: Sequence[float], alpha: float) -> float:
    """BIS in the release's float operations."""
    positive = [s for s in scores if s > 0]
    p = len(positive) / len(scores)
    r = add(positive) / len(positive) if positive else 1.0
    return (p * (1 - p) + alpha) * r


def reason_to_drop(record: dict) -> str | None:
    """Why the release drops a pick at export."""
    if not record.get("image"):
        return "image missing"
    for step in record["steps_with_score"]:
        if not str(step.get("step") or "").strip():
            return "empty step text"
        if number(step.get("score")) is None:
            return "score does not count"
    return None


def conversation(record: dict) -> dict:
    """What it writes of a pick."""
    question = str(record.get("question_orig") or record.get("question") or "").strip()
    steps = [str(s.get("step") or "").strip() for s in record["steps_with_score"]]
    process = "<prm>\n\n".join(steps) + "<prm>"
    value = [1.0 if float(s["score"]) > 0 else 0.0 for s in record["steps_with_score"]]
    return {
        "image": record["image"],
        "conversations": [
            {"from": "human", "value": f"Question: {question}\nProcess: {process}"},
            {"from": "gpt", "value": value},
        ],
    }


def select(
    folder: Path, keep_ratio: float, alpha: float
) -> tuple[bytes, list[dict[str, Any]]]:
    """(output bytes, counts of each file) of the release."""
    output: list[str] = []
    reports: list[dict[str, Any]] = []
    paths = [p for p in folder.iterdir() if p.is_file() and p.name.endswith(".jsonl")]
    for path in sorted(paths, key=lambda p: p.name):
        lines = blank = refused = 0
        rollouts = []
        with open(path, encoding="utf-8") as file:
            for line in file:
                lines += 1
                line = line.strip()
                if not line:
                    blank += 1
                    continue
                try:
                    record = json.loads(line)
                except (ValueError, RecursionError):
                    refused += 1
                    continue
                steps = record.get("steps_with_score") or []
                if not isinstance(steps, list):
                    raise TypeError("steps are no list")
                scores = [number(step.get("score")) for step in steps]
                scores = [s for s in scores if s is not None]
                if scores:
                    rollouts.append((bis(scores, alpha), lines, record))
        best = sorted(rollouts, key=lambda r: r[0], reverse=True)
        m = len(rollouts)
        keep = max(1, int(m * keep_ratio)) if m else 0
        picks, others = best[:keep], best[keep:]
        cut = picks[-1][0] if picks else None
        tied = 0
        if any(r[0] == cut for r in others):
            tied = sum(r[0] == cut for r in picks)
        dropped: dict[str, int] = {}
        written = []
        for _, line, record in sorted(picks, key=lambda r: r[1]):
            reason = reason_to_drop(record)
            if reason:
                dropped[reason] = dropped.get(reason, 0) + 1
            else:
                output.append(
                    json.dumps(conversation(record), ensure_ascii=False) + "\n"
                )
                written.append(line)
        reports.append(
            {
                "name": path.name,
                "lines": lines,
                "blank": blank,
                "refused": refused,
                "rollouts": m,
                "selected": keep,
                "tied": tied,
                "dropped": dropped,
                "written": written,
            }
        )
    return "".join(output).encode("utf-8"), reports


if __name__ == "__main__":
    ratio = float(sys.argv[3]) if len(sys.argv) > 3 else 0.25
    data, _ = select(Path(sys.argv[1]), ratio, DEFAULT_ALPHA)
    Path(sys.argv[2]).write_bytes(data)
