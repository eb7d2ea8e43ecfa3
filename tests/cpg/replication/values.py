"""Values of any type that travels, made from its limits alone: within them, at them, and one thing beyond them."""

import math
from functools import cache

from msgspec import inspect

from cpg.replication.electorate import MOST_VOTERS, MOST_VOTES, Electorate

FARTHEST = (1 << 64) - 1
"""More than msgpack has no number for."""
_types = cache(inspect.type_info)


class Beyond(Exception):
    """This type has no value beyond its limits."""


class Maker:
    """Makes values with these dice; what is often the same, as who holds and waits, comes from `known`."""

    def __init__(self, dice, known=()):
        """`known`: by type, a function that may return a value of it, or None."""
        self.dice = dice
        self.known = {Electorate: self._electorate, **dict(known)}

    def make(self, kind):
        """Return a value of a type within its limits, at them more often than not."""
        return self._make(_types(kind))

    def _electorate(self):
        """What breaks a tie votes."""
        dice = self.dice
        votes = {dice.choice([0, (1 << 32) - 1, dice.randrange(9)]): dice.choice([0, 1, MOST_VOTES]) for _ in range(3)}
        return Electorate(votes, dice.choice([None, *votes]), dice.random() < 0.5)

    def _make(self, info):
        known = self.known.get(getattr(info, "cls", None))
        value = known() if known is not None else None
        return value if value is not None else getattr(self, type(info).__name__)(info)

    def IntType(self, info):
        least, most = _range(info)
        return self.dice.choice(
            [least, most, self.dice.randint(least, most), min(most, least + self.dice.randrange(8))]
        )

    def FloatType(self, info):
        least, most = info.ge, info.le
        return self.dice.choice([least, most, self.dice.uniform(least, most), math.nextafter(least, most)])

    def BytesType(self, info):
        least, most = info.min_length or 0, info.max_length or 64
        return self.dice.randbytes(self.dice.choice([least, most, self.dice.randint(least, min(most, least + 8))]))

    def StrType(self, info):
        return "ü" * self.dice.choice([info.min_length or 0, info.max_length or 64])

    def BoolType(self, info):
        return self.dice.random() < 0.5

    def NoneType(self, info):
        return None

    def EnumType(self, info):
        return self.dice.choice(list(info.cls))

    def UnionType(self, info):
        return self._make(self.dice.choice(info.types))

    def ListType(self, info):
        return [self._make(info.item_type) for _ in range(self.dice.choice([0, 1, 3]))]

    def DictType(self, info):
        return {self._make(info.key_type): self._make(info.value_type) for _ in range(self.dice.choice([0, 1, 3]))}

    def TupleType(self, info):
        return tuple(self._make(item) for item in info.item_types)

    def NamedTupleType(self, info):
        return info.cls(*(self._make(field.type) for field in info.fields))

    def StructType(self, info):
        return info.cls(*(self._make(field.type) for field in info.fields))


class Spoiler(Maker):
    """Makes values with one field, wherever that is, beyond its limits."""

    def spoil(self, kind):
        """Return a value like one of this type that none is. Raises Beyond where all are."""
        return self._spoil(_types(kind))

    def _spoil(self, info):
        return getattr(self, f"spoil_{type(info).__name__}", self.spoil_nothing)(info)

    def spoil_nothing(self, info):
        raise Beyond

    def spoil_IntType(self, info):
        least, most = _range(info)
        return self.dice.choice([least - 1, most + 1, FARTHEST, 0.5, None, b"1", True])

    def spoil_FloatType(self, info):
        beyond = [math.nextafter(info.ge, -math.inf), math.nextafter(info.le, math.inf)]
        return self.dice.choice([*beyond, math.nan, math.inf, -math.inf, 5e-324 if info.ge > 0 else -5e-324, None, "1"])

    def spoil_BytesType(self, info):
        beyond = [b""] if info.min_length else []
        beyond += [b"x" * (info.max_length + 1)] if info.max_length is not None else []
        return self.dice.choice([*beyond, 5, None, [1]])

    def spoil_EnumType(self, info):
        return self.dice.choice([99, "nothing", None])

    def spoil_DictType(self, info):
        beyond = [{-1: 1}, {1 << 32: 1}, {"1": 1}, {1: -1}, {1: MOST_VOTES + 1}, None, 5, [1]]
        return self.dice.choice([*beyond, dict.fromkeys(range(MOST_VOTERS + 1), 1)])

    def spoil_NamedTupleType(self, info):
        return tuple(self._spoil_one(info.fields))

    def spoil_StructType(self, info):
        if info.tag is None:
            return self._spoil_one(info.fields)  # an array is the same bytes, and has no checks of its own
        return info.cls(*self._spoil_one(info.fields))

    def _spoil_one(self, fields):
        values = [self._make(field.type) for field in fields]
        places = list(range(len(fields)))
        self.dice.shuffle(places)
        for place in places:
            try:
                values[place] = self._spoil(fields[place].type)
            except Beyond:
                continue
            return values
        raise Beyond


def _range(info):
    least = info.ge if info.ge is not None else info.gt + 1
    most = info.le if info.le is not None else info.lt - 1
    return least, most
