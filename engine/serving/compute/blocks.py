"""Which blocks of the KV cache belong to whom, and which hold a prefix somebody may need again. Pure: no tensors.

A block holds the keys and values of `size` consecutive tokens. A full block of a sequence is remembered under what it
follows and what it holds, exactly (a dictionary compares the tokens, so there are no false hits); a sequence that begins
the same way shares it. Blocks nobody uses are reused oldest first, and until then still answer for their prefix. As in
vLLM's block pool and nano-vllm's block manager, with a tree of nodes in place of chained hashes.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence

_ROOT = 0


class BlockPool:
    """The blocks of one cache. A sequence's table lists its blocks in order; the pool keeps who shares what."""

    def __init__(self, count: int, size: int) -> None:
        if count < 1 or size < 1:
            raise ValueError(f"a cache of {count} blocks of {size} tokens cannot hold anything")
        self.count = count
        self.size = size
        self._users = [0] * count
        self._free: OrderedDict[int, None] = OrderedDict((block, None) for block in range(count))
        """Blocks without a user, the next to be reused first."""
        self._node_of: dict[int, int] = {}
        self._key_of: dict[int, tuple[int, tuple[int, ...]]] = {}
        self._known: dict[tuple[int, tuple[int, ...]], int] = {}
        self._last_node = _ROOT

    @property
    def free(self) -> int:
        """Blocks that can be taken, those that remember a prefix included."""
        return len(self._free)

    @property
    def used(self) -> int:
        """Blocks that some sequence holds."""
        return self.count - len(self._free)

    def needed(self, tokens: int) -> int:
        """How many blocks a sequence of `tokens` takes."""
        return -(-tokens // self.size)

    def take(self) -> int | None:
        """A block for one sequence, its old content forgotten; None when every block is in use."""
        if not self._free:
            return None
        block, _ = self._free.popitem(last=False)
        self._forget(block)
        self._users[block] = 1
        return block

    def give_back(self, table: list[int]) -> None:
        """A sequence is done with its blocks; empties `table`. The end of a prefix is reused before its beginning."""
        for block in reversed(table):
            self._users[block] -= 1
            if not self._users[block]:
                self._free[block] = None
                if block not in self._node_of:
                    self._free.move_to_end(block, last=False)
        table.clear()

    def match(self, tokens: Sequence[int]) -> list[int]:
        """Take the longest run of remembered blocks with which `tokens` begins, always leaving one token to compute."""
        node, table = _ROOT, []
        for start in range(0, len(tokens) - self.size, self.size):
            block = self._known.get((node, tuple(tokens[start : start + self.size])))
            if block is None:
                break
            table.append(block)
            node = self._node_of[block]
        for block in table:
            if not self._users[block]:
                del self._free[block]
            self._users[block] += 1
        return table

    def remember(self, table: Sequence[int], tokens: Sequence[int], start: int, computed: int) -> None:
        """The sequence's tokens from `start` to `computed` were computed: its blocks that became full are remembered.

        A block whose content another one already answers for stays the sequence's own, and is not remembered twice.
        """
        for index in range(start // self.size, computed // self.size):
            parent = _ROOT if index == 0 else self._node_of.get(table[index - 1])
            block = table[index]
            if parent is None or block in self._node_of:
                if parent is None:
                    return
                continue
            key = (parent, tuple(tokens[index * self.size : (index + 1) * self.size]))
            if key in self._known:
                return
            self._last_node += 1
            self._known[key], self._key_of[block], self._node_of[block] = block, key, self._last_node

    def held_alone(self, table: Sequence[int]) -> list[int]:
        """Those blocks of a sequence that no other sequence holds."""
        return [block for block in table if self._users[block] == 1]

    def forget_all(self) -> None:
        """Remember no prefix any more: what is in the cache cannot be vouched for."""
        for block in list(self._node_of):
            self._forget(block)

    def _forget(self, block: int) -> None:
        key = self._key_of.pop(block, None)
        if key is not None:
            del self._known[key]
            del self._node_of[block]
