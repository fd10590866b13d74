"""What the formats share: typed decoding, checks on both ways, one line of JSON."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Sequence
from typing import Any, TypeVar

import msgspec
from msgspec import UNSET

from mprm_jax.records.problems import BadRecord
from mprm_jax.records.record import PLACEHOLDER, Record

T = TypeVar("T")


class Pictured(msgspec.Struct, kw_only=True, frozen=True, gc=False):
    """Where the records of every format name their pictures: a path, several, or none.

    Other keys that look like pictures (``image_url``, ``img``) are not read;
    :func:`check_pictures` refuses a record that has one of these alone.
    """

    image: Any = UNSET
    images: Any = UNSET
    image_path: Any = UNSET
    image_paths: Any = UNSET

    def paths(self) -> str | tuple[str, ...] | None:
        """What a record's ``image`` becomes.

        Raises:
            BadRecord: it is no path or list of paths, or two keys name different ones.
        """
        others = self.images or self.image_path or self.image_paths
        if type(self.image) is str and not others:
            return self.image
        given = {
            tuple(paths): value
            for value in (self.image, self.images, self.image_path, self.image_paths)
            if (paths := _paths(value))
        }
        if len(given) > 1:
            raise BadRecord("two keys name pictures", " and ".join(map(repr, given)))
        if not given:
            # What is empty is told from none: it has no meaning anywhere.
            return "" if self.image == "" else () if self.image == [] else None
        ((paths, value),) = given.items()
        return paths if isinstance(value, list) else paths[0]


def _paths(value: Any) -> list[str]:
    if value is UNSET or value is None or value == "":
        return []
    return [_path(one) for one in (value if isinstance(value, list) else [value])]


def _path(value: Any) -> str:
    match value:
        case str():
            return value
        # As Hugging Face's datasets write a picture that stays in its file.
        case {"path": str(path), "bytes": None}:
            return path
        case {"bytes": _}:
            raise BadRecord(
                "picture inside the record",
                "save the pictures as files, and name these in image",
            )
    raise BadRecord("image is no path", f"it is {kind_of(value)}")


# A key that looks like pictures, with something in it: text, list or object.
_PICTURE_KEY = re.compile(
    rb'"((?i:(?:\w*_)?(?:images?|imgs?|pictures?|photos?)'
    rb"(?:_?(?:paths?|urls?|files?|filenames?|names?|uris?|list|\d+"
    rb'|base64|b64|bytes|data))?))"'
    rb'\s*:\s*(?=["\[{])(?!""|\[\s*\]|\{\s*\})'
)

# The path of a picture, wherever it stands; its end alone is found faster.
_ENDS = (".png", ".jpg", ".jpeg", ".webp", ".gif", ".bmp", ".tif", ".tiff")
# (Letters of both cases take half the time of a pattern without case.)
_PATH_END = re.compile(
    rb"\.(?:[pP][nN][gG]|[jJ][pP][eE]?[gG]|[wW][eE][bB][pP]|[gG][iI][fF]|[bB][mM][pP]"
    rb'|[tT][iI][fF][fF]?)(?="\s*[],}])'
)
_PATH = re.compile(rb'(?<!\\)"([^"\s]+' + _PATH_END.pattern + rb")")


def check_pictures(data: bytes | memoryview, records: Sequence[Record] = ()) -> None:
    """Refuse a record without pictures that has some under a key that is not read.

    Args:
        data: JSON of the record.
        records: what it was read as: a step that is the path of a picture is none.

    Raises:
        BadRecord: it names the key, or the path.
    """
    key = _PICTURE_KEY.search(data)
    found = key[1].decode(errors="replace") if key else unread_picture(data, records)
    if found:
        raise BadRecord(
            "pictures under another key",
            f"{found[:80]!r} is not read; call the key image, and give it a path or a "
            "list of paths",
        )


def unread_picture(data: bytes | memoryview, records: Sequence[Record]) -> str | None:
    """The first path of a picture in a record that is none of its pictures' and no
    text of its; None: there is none.
    """
    known = {image for record in records for image in record.images}
    if all_pictures(data, known):
        return None
    for record in records:
        known |= {record.question, *(step.text for step in record.steps)}
    for found in _PATH.finditer(data):
        try:
            path = msgspec.json.decode(b'"%b"' % found[1], type=str)
        except msgspec.DecodeError:
            path = found[1].decode(errors="replace")
        if path not in known:
            return path
    return None


def all_pictures(data: bytes | memoryview, images: Iterable[str | None]) -> bool:
    """Whether no string in JSON ends like the path of a picture but these."""
    named = sum(1 for image in images if image and image.lower().endswith(_ENDS))
    return len(_PATH_END.findall(data)) == named


_LEADING = re.compile(rf"\s*{PLACEHOLDER}\s*")


def split_placeholders(text: str) -> tuple[int, str]:
    """How many picture placeholders lead a text, and what follows them."""
    if PLACEHOLDER not in text:
        return 0, text
    count = end = 0
    while found := _LEADING.match(text, end):
        count, end = count + 1, found.end()
    return count, text[end:]


def placed(record: Record, before: int) -> Record:
    """The record, if its picture placeholders fit its pictures: as many lead its texts
    (or are anywhere in them), or none does, as in corpora that leave these to trainers.

    Args:
        record: as it was read.
        before: placeholders that stood before its question, and were taken away.

    Raises:
        BadRecord: some lead it, but not as many.
    """
    leading = before + split_placeholders(record.question)[0]
    if leading in (0, len(record.images)):
        return record
    texts = [record.question, *(step.text for step in record.steps)]
    if before + sum(text.count(PLACEHOLDER) for text in texts) == len(record.images):
        return record
    raise BadRecord(
        "placeholders and images differ",
        f"{leading} leading {PLACEHOLDER}, {len(record.images)} images",
    )


def placeholders(record: Record) -> str:
    """What to write before a question that has no placeholders: one a picture."""
    if PLACEHOLDER in record.question:
        return ""
    return f"{PLACEHOLDER}\n" * len(record.images)


# Why a record is refused that exhausts the stack of its reader.
NESTED = "nested too deeply"

_FIELDS = msgspec.json.Decoder(dict[str, Any])


def load_object(line: bytes) -> dict[str, Any]:
    """The JSON object of one line, or the reason why it is none.

    Raises:
        BadRecord: see the tests for every reason and its words.
    """
    if line.startswith(b"\xef\xbb\xbf"):
        raise BadRecord("byte order mark", "save the file as UTF-8 without BOM")
    try:
        text = line.decode()
    except UnicodeDecodeError as error:
        raise BadRecord("invalid UTF-8", f"at byte {error.start + 1}") from None
    try:
        value = json.loads(text)
    except json.JSONDecodeError as error:
        raise _not_json(text.strip(), error) from None
    except RecursionError:
        raise BadRecord(NESTED) from None
    except ValueError as error:  # more digits than Python converts
        raise BadRecord("not JSON", str(error).partition(";")[0]) from None
    if not isinstance(value, dict):
        raise BadRecord("not a JSON object", f"the line holds {kind_of(value)}")
    return value


def _not_json(text: str, error: json.JSONDecodeError) -> BadRecord:
    if error.msg == "Extra data" and text.startswith("{"):
        if text[error.pos] == "{":
            return BadRecord(
                "two records on one line", f"the second begins at column {error.colno}"
            )
        return BadRecord(
            "not JSON", f"text after the record, from column {error.colno} on"
        )
    if len(text) <= 2 or not text.startswith("{"):
        return BadRecord(
            "not JSON",
            f"{text[:40]!r}: one record per line is expected "
            "(pretty-printed? rewrite with jq -c .)",
        )
    if error.pos >= len(text) - 1 or error.msg.startswith("Unterminated"):
        return BadRecord("truncated line", f"it ends inside the record ({error.msg})")
    return BadRecord("not JSON", f"{error.msg} at column {error.colno}")


def kind_of(value: object) -> str:
    """What a JSON value is, in the words of an error message."""
    match value:
        case None:
            return "null"
        case bool():
            return "a boolean"
        case int() | float():
            return "a number"
        case str():
            return "a string"
        case list():
            return "a list"
    return "an object"


def parse(
    data: bytes, decoder: msgspec.json.Decoder[T], form: str, lenient: bool = False
) -> T:
    """The typed content of one record of format ``form``: the one reader of all that is
    read by default.

    The standard library reads more than the decoder (NaN, lone surrogates). A lenient
    caller is given that, to refuse what it means, or not to care if it means nothing.

    Raises:
        BadRecord: it is no JSON (in the words ``load_object`` has for every format), or
            a field is missing or of another type (with its path).
    """
    try:
        return decoder.decode(data)
    except msgspec.ValidationError as error:
        raise BadRecord(f"not a {form} record", str(error)) from None
    except RecursionError:
        raise BadRecord(NESTED) from None
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        value = load_object(data)
        if not lenient:
            raise BadRecord("not JSON", str(error)) from None
    try:
        return msgspec.convert(value, decoder.type)
    except (msgspec.ValidationError, OverflowError) as error:
        raise BadRecord(f"not a {form} record", str(error)) from None
    except UnicodeEncodeError:
        raise BadRecord("lone surrogate", "the name of a field holds it") from None


def source_of(data: bytes, name: str) -> str:
    """The record's source: the field called ``name``.

    Raises:
        BadRecord: it is missing, or no string with content.
    """
    source = parse(data, _FIELDS, "JSON", lenient=True).get(name)
    if not isinstance(source, str) or not source:
        raise BadRecord("source missing", f"field {name!r} holds no string")
    return source


def check_paired(n_steps: int, n_labels: int, what: str = "labels") -> None:
    """Refuse a record whose labels, or ``what`` else, cannot be matched to its steps.

    Raises:
        BadRecord: the numbers differ.
    """
    if n_steps != n_labels:
        raise BadRecord(
            f"steps and {what} differ in number", f"{n_steps} steps, {n_labels} {what}"
        )


def only_one(form: str, *given: T | None) -> T:
    """The value of whichever of some keys a record has.

    Raises:
        BadRecord: it has none of them, or they hold different values.
    """
    values = [value for value in given if value is not None]
    if not values or any(value != values[0] for value in values):
        said = "two keys hold different labels" if values else "no list of labels"
        raise BadRecord(f"not a {form} record", said)
    return values[0]


def check_readable(
    record: Record, question: str, texts: Sequence[str], form: str
) -> None:
    """Refuse to write what would be read back as another record.

    Args:
        record: to be written.
        question: as the reader of the format finds it in what is to be written.
        texts: of the steps, likewise; as many, since no text holds a marker.
        form: name of the format.

    Raises:
        BadRecord: a text differs, so it contains what separates the parts of the
            format, or has white space around it.
    """
    if question != record.question:
        where = "the question"
    elif list(texts) != [step.text for step in record.steps]:
        pairs = zip(record.steps, texts, strict=True)
        changed = (i for i, (step, text) in enumerate(pairs, 1) if step.text != text)
        where = f"step {next(changed)}"
    else:
        return
    raise BadRecord(
        "text would be read differently",
        f"{where} has white space around it or contains a separator of format {form}",
    )


def json_line(value: object) -> bytes:
    """JSON as ``json.dumps(..., ensure_ascii=False)`` writes it: one line with ``", "``
    and ``": "``, non-ASCII as is; a string seven times as fast.

    Raises:
        BadRecord: a text holds half of a surrogate pair.
    """
    try:
        if isinstance(value, str):
            return msgspec.json.encode(value)
        return json.dumps(value, ensure_ascii=False).encode()
    except UnicodeEncodeError:
        raise BadRecord("lone surrogate", "it cannot be written as UTF-8") from None


def image_entry(record: Record) -> dict[str, object]:
    """The ``image`` key of a written record; no key for a text-only rollout."""
    return {"image": record.image} if record.images else {}
