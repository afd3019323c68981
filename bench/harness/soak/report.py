"""The report: one row for each slice of time, and the worst over the first."""

from dataclasses import dataclass


@dataclass
class Kind:
    """The requests of one kind in a slice. The times are those of expected responses, in ms."""

    per_second: float
    p50_ms: float
    p99_ms: float
    failures: dict[str, int]


@dataclass
class Slice:
    """What happened until `seconds`, and what was measured then."""

    seconds: float
    kinds: dict[str, Kind]
    memory: dict[str, float]  # MB by process
    tables: dict[str, tuple[float, int, int]]  # MB, live rows, dead rows


def percentile(values: list[float], part: float) -> float:
    """A percentile of values, 0 if there are none."""
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, int(len(ordered) * part))] if ordered else 0.0


def text(slices: list[Slice], faults: list[str]) -> str:
    """The whole report, in Markdown."""
    kinds = sorted({kind for one in slices for kind in one.kinds})
    processes, tables = list(slices[0].memory), sorted({name for one in slices for name in one.tables})
    none = Kind(0, 0, 0, {})
    parts = [
        "## Requests per second (p50 / p99 in ms)",
        _table(["until", *kinds], [[_time(one), *(_kind(one.kinds.get(kind, none)) for kind in kinds)] for one in slices]),
        "## Failures by status",
        _table(["until", "failures"], [[_time(one), _failures(one)] for one in slices if _failures(one)]),
        "## Memory (MB)",
        _table(["until", *processes], [[_time(one), *(f"{one.memory[name]:.1f}" for name in processes)] for one in slices]),
        "## Tables (MB, live rows, dead rows)",
        _table(["until", *tables], [[_time(one), *(_size(one, name) for name in tables)] for one in slices]),
        "## Faults",
        "\n".join(f"- {fault}" for fault in faults) or "None.",
        "## The worst slice over the first",
        _table(["kind", "requests per second", "p99"], [_worst(slices, kind) for kind in kinds]),
    ]  # fmt: skip
    return "\n\n".join(parts) + "\n"


def _worst(slices: list[Slice], kind: str) -> list[str]:
    rates = [one.kinds[kind].per_second for one in slices if kind in one.kinds]
    tails = [one.kinds[kind].p99_ms for one in slices if kind in one.kinds]
    return [kind, _ratio(min(rates), rates[0]), _ratio(max(tails), tails[0])]


def _ratio(worst: float, first: float) -> str:
    return f"{worst / first:.2f}" if first else "none at first"


def _time(one: Slice) -> str:
    return f"{one.seconds:.0f} s"


def _kind(kind: Kind) -> str:
    return f"{kind.per_second:,.0f} ({kind.p50_ms:.1f} / {kind.p99_ms:.1f})"


def _failures(one: Slice) -> str:
    counts = [
        f"{kind}: {count} x {status}" for kind, seen in one.kinds.items() for status, count in seen.failures.items()
    ]
    return ", ".join(counts)


def _size(one: Slice, name: str) -> str:
    size, live, dead = one.tables.get(name, (0, 0, 0))
    return f"{size:.1f} ({live:,}, {dead:,})"


def _table(head: list[str], rows: list[list[str]]) -> str:
    lines = ["| " + " | ".join(row) + " |" for row in (head, *rows)]
    lines.insert(1, "|" + "---|" * len(head))
    return "\n".join(lines)
