"""Files for tests: raw annotations, benchmarks, pictures."""

import io
import json

import numpy as np
from PIL import Image


def step(k=8, n=16, text="a step", **fields):
    """One annotated step with K of N continuations right."""
    return {
        "step": text,
        "score": k / n if n else 0,
        "num_mc_correct": k,
        "num_mc_total": n,
    } | fields


def record(counts=((16, 16), (0, 16)), number=0, **fields):
    """One raw record; fields override or add keys, None included."""
    return {
        "image": f"images/{number}.png",
        "question": f"How many in picture {number}?",
        "answer": "3",
        "response": "Because.",
        "steps_with_score": [
            step(k, n, f"step {j} of {number}") for j, (k, n) in enumerate(counts)
        ],
    } | fields


def without(value, *keys):
    """The record without some keys."""
    return {key: item for key, item in value.items() if key not in keys}


def line(value):
    """One line as the annotator writes it."""
    return json.dumps(value, ensure_ascii=False)


def random_records(rng, n, n_trials=16, unmeasured=0.0):
    """Records whose counts are anything from all-negative to perfect."""
    records = []
    for i in range(n):
        steps = int(rng.integers(1, 7))
        k = np.where(
            rng.random(steps) < 0.4,
            rng.choice([0, n_trials], steps),
            rng.integers(0, n_trials + 1, steps),
        )
        total = np.full(steps, n_trials)
        if rng.random() < unmeasured:
            first = int(rng.integers(0, steps))
            k[first:] = 0
            total[first:] = 0
        records.append(
            record([(int(a), int(b)) for a, b in zip(k, total, strict=True)], i)
        )
    return records


def write_lines(path, *records):
    """JSON lines; a text is a line as it is."""
    lines = (one if isinstance(one, str) else json.dumps(one) for one in records)
    path.write_text("".join(line + "\n" for line in lines))
    return path


def read_lines(path):
    """The values of a file of JSON lines."""
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def png(seed=0, size=(4, 4)):
    """Bytes of a small picture of random pixels."""
    pixels = np.random.default_rng(seed).integers(0, 256, (*size, 3), np.uint8)
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "PNG")
    return file.getvalue()


def write_pictures(folder, count, size=(4, 4)):
    """Pictures 0.png, 1.png, ... in a folder, made if need be."""
    folder.mkdir(parents=True, exist_ok=True)
    for number in range(count):
        (folder / f"{number}.png").write_bytes(png(number, size))


def solution(number, steps, labels=None, **fields):
    """One record in VisualProcessBench's format."""
    texts = [f"step {j} of {number} says {'so ' * (j % 4)}it" for j in range(steps)]
    return {
        "image": [f"{number}.png"],
        "question": f"what is in {number}?",
        "response": {
            "steps": texts,
            "process_correctness": labels or [(1, -1, 0)[j % 3] for j in range(steps)],
        },
        "data_source": ("a", "b")[number % 2],
    } | fields


def benchmark(folder, records):
    """Write test.jsonl and a picture for each record below images/."""
    write_pictures(folder / "images", len(records))
    return write_lines(folder / "test.jsonl", *records)


def write_corpus(folder, files):
    """Write {file name: records or bytes} and return the folder."""
    folder.mkdir(parents=True, exist_ok=True)
    for name, content in files.items():
        if not isinstance(content, bytes):
            content = "".join(line(value) + "\n" for value in content).encode()
        (folder / name).write_bytes(content)
    return folder
