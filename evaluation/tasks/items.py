"""What a task is made of, and its file: one JSON object a line."""

import json
from dataclasses import asdict, dataclass
from pathlib import Path

from isotok.errors import DataError
from isotok.files import hash_key


@dataclass(frozen=True)
class Item:
    """One question. `id` is unique within its task; `choices` follow `context` directly."""

    id: str
    document: str
    group: str
    domain: str
    context: str
    choices: tuple[str, ...]
    gold: int

    @property
    def hash(self) -> str:
        """What was asked, to check that arms were asked the same."""
        return hash_key([self.context, self.choices, self.gold], digits=16)


def json_line(item: Item) -> str:
    """One JSONL line of an item."""
    return json.dumps(asdict(item), ensure_ascii=False, sort_keys=True)


def read_items(path: Path) -> list[Item]:
    """The items of a file. Raises DataError naming file and line for one that is none."""
    items = []
    for number, line in enumerate(path.read_text(encoding="utf-8").split("\n"), 1):  # not splitlines: U+2028 is text
        if not line:
            continue
        try:
            fields = json.loads(line)
            item = Item(**{**fields, "choices": tuple(fields["choices"])})
        except (ValueError, TypeError, KeyError) as error:
            raise DataError(f"{path}:{number}: not an item ({error})") from error
        if not item.choices or not 0 <= item.gold < len(item.choices):
            raise DataError(f"{path}:{number}: item {item.id} has {len(item.choices)} choices and gold={item.gold}")
        items.append(item)
    return items
