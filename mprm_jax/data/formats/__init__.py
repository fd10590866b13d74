"""One module per on-disk format; see ``formats.base`` for what each provides."""

from __future__ import annotations

from difflib import get_close_matches

import msgspec

from mprm_jax.data.formats.base import Format
from mprm_jax.data.formats.json_record import Pictured
from mprm_jax.data.formats.math_shepherd import MATH_SHEPHERD
from mprm_jax.data.formats.medprm import MEDPRM
from mprm_jax.data.formats.openr import OPENR
from mprm_jax.data.formats.openrlhf import OPENRLHF
from mprm_jax.data.formats.prm import PRM
from mprm_jax.data.formats.prm800k import PRM800K
from mprm_jax.data.formats.prmbench import PRMBENCH
from mprm_jax.data.formats.processbench import PROCESSBENCH
from mprm_jax.data.formats.raw import RAW
from mprm_jax.data.formats.rlhflow import RLHFLOW
from mprm_jax.data.formats.trl import TRL
from mprm_jax.data.formats.visualprm import VISUALPRM
from mprm_jax.data.formats.visualprocessbench import VISUALPROCESSBENCH
from mprm_jax.data.formats.vlrmbench import VLRMBENCH
from mprm_jax.records.problems import DataError

FORMATS: tuple[Format, ...] = (
    RAW,
    PRM,
    VISUALPRM,
    TRL,
    MATH_SHEPHERD,
    RLHFLOW,
    OPENRLHF,
    OPENR,
    PRM800K,
    PROCESSBENCH,
    VISUALPROCESSBENCH,
    PRMBENCH,
    VLRMBENCH,
    MEDPRM,
)

# An error names at most this many keys of the record, and this much of each.
_KEYS_SHOWN = 12
_KEY_LENGTH = 40
# Keys that say nothing of the format.
_EVERYWHERE = {*Pictured.__struct_fields__, "question", "answer", "source", "id"}


def by_name(name: str) -> Format:
    """The format called ``name``.

    Raises:
        ValueError: there is none.
    """
    for form in FORMATS:
        if form.name == name:
            return form
    raise ValueError(f"no format {name!r}; known: {_names()}")


def detect(keys: dict) -> Format:
    """The format of a decoded JSON object.

    Raises:
        DataError: it is none that is known; the message shows its keys.
    """
    for form in FORMATS:
        if form.recognise(keys):
            return form
    if "reasoning_steps" in keys:
        raise DataError(
            "a search tree of OpenR or OmegaPRM (reasoning_steps), not a rollout with "
            "Monte-Carlo counts per step; flatten its paths into the raw format first"
        )
    shown = ", ".join(repr(key)[:_KEY_LENGTH] for key in list(keys)[:_KEYS_SHOWN])
    more = ", …" if len(keys) > _KEYS_SHOWN else ""
    raise DataError(
        f"unknown format: the record has the keys {shown or '(none)'}{more}; "
        f"{_nearest(keys)}known formats: {_names()}"
    )


def _nearest(keys: dict) -> str:
    """What a record lacks of the format whose keys are most like its own."""

    def alike(form: Format) -> list[str]:
        own = (field.encode_name for field in msgspec.structs.fields(form.decoder.type))
        names = [name for name in own if name not in _EVERYWHERE]
        return [name for name in names if get_close_matches(name, known, 1, 0.8)]

    known = [key for key in keys if key not in _EVERYWHERE]
    best = max(FORMATS, key=lambda form: len(alike(form)))
    if not alike(best):
        return ""
    fields = msgspec.structs.fields(best.decoder.type)
    required = [field.encode_name for field in fields if field.required]
    missing = [repr(name) for name in required if name not in keys]
    lacks = f"without {' and '.join(missing)}" if missing else "in another shape"
    return f"nearest is {best.name} {lacks} ({best.meaning}); "


def _names() -> str:
    return ", ".join(form.name for form in FORMATS)
