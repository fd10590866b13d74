"""The corpus description that InternVL's training scripts are started with."""

from __future__ import annotations


def internvl_meta(
    name: str, root: str, annotation: str, length: int
) -> dict[str, dict[str, object]]:
    """``{name: {"root", "annotation", "data_augment", "repeat_time", "length"}}``.

    Args:
        name: of the data set, as training logs show it.
        root: folder that image paths start from.
        annotation: file of conversations, one per line.
        length: lines in that file; the scripts sample by it, so it must be true.

    Raises:
        ValueError: there is nothing to train on.
    """
    if length < 1:
        raise ValueError(f"length must be at least 1, not {length}")
    return {
        name: {
            "root": root,
            "annotation": annotation,
            "data_augment": False,
            "repeat_time": 1,
            "length": length,
        }
    }
