"""Conversations in which a user states one step a turn and an assistant judges it.

``{"conversations": [{"from": "human", "value": text}, {"from": "gpt", "value": "+"}]}``
or ``{"messages": [{"role": "user", "content": text}, ...]}``: either key, either naming
of the turns. What a system turn in front says is not read.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import msgspec

from mprm_jax.data.formats.json_record import Pictured, kind_of
from mprm_jax.records.problems import BadRecord
from mprm_jax.records.record import PLACEHOLDER

_SPEAKERS = {"human": "user", "gpt": "assistant"}


class Turn(msgspec.Struct, frozen=True, gc=False):
    """One turn, in either naming."""

    speaker: str | None = msgspec.field(name="from", default=None)
    value: Any = None
    role: str | None = None
    content: Any = None

    @property
    def said_by(self) -> str:
        """user, assistant, or as it is named."""
        name = self.speaker or self.role or ""
        return _SPEAKERS.get(name, name)

    @property
    def text(self) -> str:
        """What it says; a picture among its parts is a placeholder.

        Raises:
            BadRecord: it says anything but text, and pictures that are named elsewhere.
        """
        said = self.value if self.content is None else self.content
        if isinstance(said, str):
            return said
        return "".join(map(_part, said if isinstance(said, list) else [said]))


def _part(part: Any) -> str:
    match part:
        case str(text) | {"type": "text", "text": str(text)}:
            return text
        case {"type": "image", **rest} if not any(rest.values()):
            return f"{PLACEHOLDER}\n"
        case {"type": "image" | "image_url"}:
            raise BadRecord(
                "picture inside a turn", "name it in the record's image instead"
            )
    raise BadRecord("turn is no text", f"it holds {kind_of(part)}")


class Conversation(Pictured, frozen=True):
    """A record of turns."""

    conversations: tuple[Turn, ...] = ()
    messages: tuple[Turn, ...] = ()


def exchanges(value: Conversation, form: str) -> tuple[list[str], list[str]]:
    """(what the user says, what the assistant answers), as many.

    Raises:
        BadRecord: user and assistant do not alternate, or a turn is no text.
    """
    if value.conversations and value.messages:
        raise BadRecord(f"not a {form} record", "two keys hold turns")
    turns = without_system(value.conversations or value.messages)
    speakers = [turn.said_by for turn in turns]
    if not turns or speakers != ["user", "assistant"] * (len(turns) // 2):
        raise BadRecord(
            f"not a {form} record", "user and assistant turns do not alternate"
        )
    texts = [turn.text for turn in turns]
    return texts[::2], texts[1::2]


def without_system(turns: Sequence[Turn]) -> Sequence[Turn]:
    """The turns behind one of a system."""
    return turns[1:] if turns and turns[0].said_by == "system" else turns


def first_exchange(keys: dict) -> tuple[str, Any]:
    """(first user text, answer to it) of a decoded JSON object, empty if it holds none:
    by these a conversation is told from others.
    """
    turns = keys.get("conversations") or keys.get("messages")
    try:
        first, second = without_system(msgspec.convert(turns, list[Turn]))[:2]
        answer = second.value if second.content is None else second.content
        return first.text, answer
    except (msgspec.ValidationError, ValueError, BadRecord):
        return "", None
