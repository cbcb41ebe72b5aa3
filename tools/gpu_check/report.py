"""results.json, results.md and the last screenful of a run. Standard library only."""

import json
import os
from pathlib import Path

# Keys of a stage's results that are not numbers of its own.
OWN = ("status", "seconds", "error", "trace", "summary")


def write(out: Path, results: dict[str, dict], seconds: float) -> None:
    """Write both files anew; a reader sees the old ones or the new ones."""
    replace(out / "results.json", json.dumps({"seconds": round(seconds, 1), "stages": results}, indent=1) + "\n")
    lines = [f"# GPU check, {seconds:.0f} s", ""]
    for name, found in results.items():
        lines += section(name, found)
    replace(out / "results.md", "\n".join(lines) + "\n")


def replace(path: Path, text: str) -> None:
    """Atomic, but not synced to the disk: written many times a minute."""
    new = path.with_name(path.name + ".new")
    new.write_text(text, encoding="utf-8")
    os.replace(new, path)


def section(name: str, found: dict) -> list[str]:
    lines = [f"## {name}: {found['status']}, {found.get('seconds', '?')} s", ""]
    if found.get("error"):
        lines += ["```", found["error"][:1500], found.get("trace", "")[-2500:], "```", ""]
    for key, value in found.items():
        if key not in OWN:
            lines += [*_shown(key, value), ""]
    return lines


def _shown(key: str, value) -> list[str]:
    if isinstance(value, list) and value and isinstance(value[0], dict):
        return [f"**{key}**", "", *table(value)]
    if isinstance(value, list):
        return [f"**{key}**", "", *(f"- {short(each)}" for each in value)]
    if isinstance(value, dict):
        return [f"**{key}**: " + ", ".join(f"{name} {short(each)}" for name, each in value.items())]
    return [f"{key}: {short(value)}"]


def table(rows: list[dict]) -> list[str]:
    names = list(dict.fromkeys(key for row in rows for key in row))
    cells = [" | ".join(short(row.get(name)) for name in names) for row in rows]
    return ["| " + " | ".join(names) + " |", "|" + "---|" * len(names), *(f"| {row} |" for row in cells)]


def short(value) -> str:
    if value is None:
        return ""
    return f"{value:.4g}" if isinstance(value, float) else str(value).replace("|", "/").replace("\n", " ")


def summary(results: dict[str, dict], seconds: float, most: int = 11_000) -> str:
    """At most `most` characters, with fewer and shorter lines for each stage until they fit."""
    text = ""
    for count, width in ((14, 190), (9, 170), (6, 150), (4, 120), (2, 100)):
        lines = [f"==== GPU check, {seconds:.0f} s ===="]
        for name, found in results.items():
            error = (found.get("error") or "").replace("\n", " ")[:width]
            lines.append(f"{name:10} {found['status']:8} {found.get('seconds', '')} {error}")
            lines += [f"    {line[:width]}" for line in found.get("summary", [])[:count]]
            lines += [f"    FAILED {line[:width]}" for line in found.get("failures", [])[:count]]
        text = "\n".join(lines)
        if len(text) < most:
            break
    return text
