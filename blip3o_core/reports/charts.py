"""Line charts and histograms as SVG text: no script, no font, nothing from elsewhere, so that a page is one file."""

import html
import math
from collections.abc import Sequence
from dataclasses import dataclass

WIDTH, HEIGHT = 420, 200  # of the drawing, in its own units
_LEFT, _RIGHT, _TOP, _BOTTOM = 46, 8, 8, 22  # margins around the lines
COLOURS = ("#2563eb", "#dc2626", "#059669", "#d97706", "#7c3aed", "#0891b2", "#be185d", "#4d7c0f", "#475569")


@dataclass(frozen=True)
class Line:
    """Numbers by step. `spread`: how far above and below a band is shown. `smooth`: a running mean over the numbers."""

    name: str
    points: Sequence[tuple[int, float]]
    spread: Sequence[float] = ()
    smooth: bool = True


def chart(title: str, lines: Sequence[Line], limit: float | None = None, note: str = "") -> str:
    """A figure with its title; '' where there are no numbers. `limit`: a dashed line."""
    lines = [line for line in lines if line.points]
    if not lines:
        return ""
    steps = [step for line in lines for step, _ in line.points]
    low, high = _range(lines, limit)
    first, last = min(steps), max(max(steps), min(steps) + 1)
    across, down = WIDTH - _LEFT - _RIGHT, HEIGHT - _TOP - _BOTTOM

    def x(step: float) -> float:
        return _LEFT + across * (step - first) / (last - first)

    def y(value: float) -> float:
        return _TOP + down * (high - min(max(value, low), high)) / (high - low)

    drawn = [_grid(low, high, y), _steps(first, last, x)]
    if limit is not None and low <= limit <= high:
        drawn.append(f'<path class="limit" d="M{_LEFT} {y(limit):.1f}H{WIDTH - _RIGHT}"/>')
    for number, line in enumerate(lines):
        colour = COLOURS[number % len(COLOURS)]
        if line.spread:
            upper = [(x(s), y(v + d)) for (s, v), d in zip(line.points, line.spread, strict=True)]
            lower = [(x(s), y(v - d)) for (s, v), d in zip(line.points, line.spread, strict=True)]
            drawn.append(f'<path d="{_path([*upper, *reversed(lower)])}Z" fill="{colour}" opacity=".12"/>')
        dots = [(x(step), y(value)) for step, value in line.points]
        if line.smooth and len(dots) >= 20:
            drawn.append(f'<path d="{_path(dots)}" fill="none" stroke="{colour}" opacity=".25"/>')
            means = _running_mean(line.points, max(3, len(dots) // 15))
            dots = [(x(step), y(value)) for step, value in means]
        elif len(dots) < 40:
            drawn += [f'<circle cx="{a:.1f}" cy="{b:.1f}" r="2.5" fill="{colour}"/>' for a, b in dots]
        drawn.append(f'<path d="{_path(dots)}" fill="none" stroke="{colour}" stroke-width="2"/>')
    words = ", ".join(
        f"{line.name} from {_number(line.points[0][1])} to {_number(line.points[-1][1])}" for line in lines
    )
    return _figure(title, words, drawn, [line.name for line in lines], note)


@dataclass(frozen=True)
class Axis:
    """The values of a histogram, from `low` to `high`; those beyond are counted in the first and last bar."""

    low: float
    high: float
    bars: int = 40
    log: bool = False

    def bar_of(self, value: float) -> int:
        """The bar that counts a value."""
        return min(max(int(self.share(value) * self.bars), 0), self.bars - 1)

    def share(self, value: float) -> float:
        """Where a value stands between the ends, from 0 to 1."""
        if self.log:
            low, high = math.log(self.low), math.log(self.high)
            return (math.log(max(value, self.low)) - low) / (high - low)
        return (value - self.low) / (self.high - self.low)

    def value_at(self, share: float) -> float:
        if self.log:
            return self.low * (self.high / self.low) ** share
        return self.low + (self.high - self.low) * share


def histogram(
    title: str, axis: Axis, groups: Sequence[tuple[str, Sequence[int]]], limits: Sequence[float] = (), note: str = ""
) -> str:
    """A figure of counts, one group on the other; '' where there is nothing to count. `limits`: dashed lines."""
    heights = [sum(counts) for counts in zip(*(counts for _, counts in groups), strict=True)]
    highest = max(heights, default=0)
    if not highest:
        return ""
    across, down, width = WIDTH - _LEFT - _RIGHT, HEIGHT - _TOP - _BOTTOM, (WIDTH - _LEFT - _RIGHT) / axis.bars
    drawn = [_grid(0, highest, lambda value: _TOP + down * (1 - value / highest))]
    below = [0] * axis.bars
    for number, (_, counts) in enumerate(groups):
        for bar, count in enumerate(counts):
            top = _TOP + down * (1 - (below[bar] + count) / highest)
            if count:
                drawn.append(
                    f'<rect x="{_LEFT + bar * width + 0.5:.1f}" y="{top:.1f}" width="{width - 1:.1f}" '
                    f'height="{down * count / highest:.1f}" fill="{COLOURS[number % len(COLOURS)]}"/>'
                )
            below[bar] += count
    for share, anchor in (0, "start"), (0.25, "middle"), (0.5, "middle"), (0.75, "middle"), (1, "end"):
        drawn.append(
            f'<text x="{_LEFT + across * share:.1f}" y="{HEIGHT - 6}" text-anchor="{anchor}">'
            f"{_number(axis.value_at(share))}</text>"
        )
    for limit in limits:
        place = _LEFT + across * min(max(axis.share(limit), 0), 1)
        drawn.append(f'<path class="limit" d="M{place:.1f} {_TOP}V{HEIGHT - _BOTTOM}"/>')
    words = ", ".join(f"{sum(counts)} {name}" for name, counts in groups)
    return _figure(title, words, drawn, [name for name, _ in groups], note)


@dataclass(frozen=True)
class Interval:
    """A number between its ends."""

    value: float
    low: float
    high: float


def intervals(
    title: str,
    rows: Sequence[str],
    groups: Sequence[tuple[str, Sequence[Interval | None]]],
    limit: float | None = None,
    note: str = "",
) -> str:
    """A figure with a dot and a bar for each group in every row; '' without numbers. `limit`: a dashed line.

    A group without a name has no place in the legend, but a colour of its own, so that two figures agree.
    """
    found = [one for _, row in groups for one in row if one is not None]
    if not found:
        return ""
    ends = [end for one in found for end in (one.low, one.high)] + ([] if limit is None else [limit])
    room = 0.04 * (max(ends) - min(ends)) or 0.1 * abs(max(ends)) or 1.0
    axis = Axis(min(ends) - room, max(ends) + room)
    each, left = 8 * len(groups) + 10, 8 + 5.5 * min(max(map(len, rows)), 28)
    height = _TOP + each * len(rows) + _BOTTOM

    def x(value: float) -> float:
        return left + (WIDTH - _RIGHT - left) * axis.share(value)

    drawn = []
    spacing = _spacing((axis.high - axis.low) / 4)
    for number in range(math.ceil(axis.low / spacing), math.floor(axis.high / spacing) + 1):
        place = x(number * spacing)
        drawn.append(f'<path class="grid" d="M{place:.1f} {_TOP}V{height - _BOTTOM}"/>')
        drawn.append(f'<text x="{place:.1f}" y="{height - 6}" text-anchor="middle">{_number(number * spacing)}</text>')
    if limit is not None:
        drawn.append(f'<path class="limit" d="M{x(limit):.1f} {_TOP}V{height - _BOTTOM}"/>')
    for k, row in enumerate(rows):
        top, name = _TOP + each * k, row if len(row) <= 28 else f"{row[:27]}…"
        drawn.append(f'<text x="2" y="{top + each / 2 + 3.5:.1f}">{html.escape(name)}</text>')
        for number, (_, values) in enumerate(groups):
            one, y, colour = values[k], top + 9 + 8 * number, COLOURS[number % len(COLOURS)]
            if one is not None:
                drawn.append(f'<path d="M{x(one.low):.1f} {y}H{x(one.high):.1f}" stroke="{colour}" stroke-width="2"/>')
                drawn.append(f'<circle cx="{x(one.value):.1f}" cy="{y}" r="3" fill="{colour}"/>')
    words = "; ".join(
        f"{name}: " + ", ".join(f"{row} {_number(v.value)}" for row, v in zip(rows, values, strict=True) if v)
        for name, values in groups
    )
    return _figure(title, words, drawn, [name for name, _ in groups], note, height)


def _figure(title: str, words: str, drawn: Sequence[str], names: Sequence[str], note: str, height=HEIGHT) -> str:
    """A drawing with its title above and its legend below. `words`: for who cannot see it."""
    drawing = (
        f'<svg viewBox="0 0 {WIDTH} {height}" role="img" aria-label="{html.escape(f"{title}: {words}")}">'
        f"{''.join(drawn)}</svg>"
    )
    legend = "".join(
        f'<span style="color:{COLOURS[k % len(COLOURS)]}">■</span> {html.escape(name)} '
        for k, name in enumerate(names)
        if name
    )
    shown = f"{legend}<br>" if len(names) > 1 else ""
    below = f'<p class="legend">{shown}{html.escape(note)}</p>'
    return f"<figure><figcaption>{html.escape(title)}</figcaption>{drawing}{below}</figure>"


def _range(lines: Sequence[Line], limit: float | None) -> tuple[float, float]:
    values = [value for line in lines for _, value in line.points if math.isfinite(value)] or [0.0]
    for line in lines:
        values += [v + sign * d for (_, v), d in zip(line.points, line.spread, strict=False) for sign in (1, -1)]
    low, high = min(values), max(values)
    if limit is not None and low <= limit <= high + 2 * (high - low):
        high = max(high, limit)
    room = 0.06 * (high - low) or 0.1 * abs(high) or 1.0
    return (low if 0 <= low < 2 * room else low - room), high + room


def _grid(low: float, high: float, y) -> str:
    spacing = _spacing((high - low) / 4)
    found = []
    for number in range(math.ceil(low / spacing), math.floor(high / spacing) + 1):
        height, value = y(number * spacing), number * spacing
        found.append(f'<path class="grid" d="M{_LEFT} {height:.1f}H{WIDTH - _RIGHT}"/>')
        found.append(f'<text x="{_LEFT - 5}" y="{height + 3.5:.1f}" text-anchor="end">{_number(value)}</text>')
    return "".join(found)


def _steps(first: int, last: int, x) -> str:
    spacing = max(1, round(_spacing((last - first) / 5)))
    marks = range(math.ceil(first / spacing) * spacing, last + 1, spacing)
    return "".join(f'<text x="{x(step):.1f}" y="{HEIGHT - 6}" text-anchor="middle">{step}</text>' for step in marks)


def _spacing(wanted: float) -> float:
    """1, 2 or 5 times a power of ten, near `wanted`."""
    power = 10.0 ** math.floor(math.log10(wanted)) if wanted > 0 else 1.0
    return next((power * k for k in (1, 2, 5) if power * k >= wanted), power * 10)


def _number(value: float) -> str:
    if abs(value) >= 1000:
        return f"{value:,.0f}"
    return f"{value:.3g}" if value else "0"


def _path(dots: Sequence[tuple[float, float]]) -> str:
    return "M" + "L".join(f"{a:.1f} {b:.1f}" for a, b in dots)


def _running_mean(points: Sequence[tuple[int, float]], width: int) -> list[tuple[int, float]]:
    """The mean of each number and its neighbours, `width` of them on each side at most."""
    found = []
    for k, (step, _) in enumerate(points):
        near = points[max(0, k - width) : k + width + 1]
        found.append((step, sum(value for _, value in near) / len(near)))
    return found
