"""Which texts of the nodes still have to be translated: missing, left over, or older than the English text.

    python -m tools.translations                what is left to do in every language
    python -m tools.translations --done zh ja   records that these languages say what English says now

The English texts of the nodes are written by `python -m tools.schemas locales`; all others in `locales/` by hand.
"""

import argparse
import hashlib
import json

from tools.environment import TOP

LOCALES = TOP / "locales"
ENGLISH = "en"
# Of each language, the English text that a translation was made from, as a digest.
TRANSLATED_FROM = TOP / "tools" / "translated_from.json"


def languages() -> list[str]:
    """Every language in `locales/` but English."""
    return sorted(folder.name for folder in LOCALES.iterdir() if folder.is_dir() and folder.name != ENGLISH)


def texts(language: str) -> dict[str, str]:
    """Every text of nodes and page, by its place: "BLIP3oLoader.inputs.dtype.tooltip", "blip3o.canvas.undo"."""
    found: dict[str, str] = {}

    def collect(part: dict, path: str) -> None:
        for key, value in part.items():
            if isinstance(value, dict):
                collect(value, f"{path}{key}.")
            else:
                found[path + key] = value

    for name in ("nodeDefs.json", "main.json"):  # of the nodes, and of what web/js adds to the page
        collect(json.loads((LOCALES / language / name).read_text(encoding="utf-8")), "")
    return found


def digest(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()[:8]


def recorded() -> dict[str, dict[str, str]]:
    return json.loads(TRANSLATED_FROM.read_text(encoding="utf-8")) if TRANSLATED_FROM.is_file() else {}


def left_to_do() -> list[str]:
    """A line for every text to translate, translate again or remove."""
    english, made_from, lines = texts(ENGLISH), recorded(), []
    for language in languages():
        ours, old = texts(language), made_from.get(language, {})
        lines += [f"{language}: {key} is missing: {english[key]}" for key in english if key not in ours]
        lines += [f"{language}: {key} is not in English: remove it" for key in ours if key not in english]
        lines += [
            f"{language}: {key} is older than the English text: {english[key]}"
            for key in english
            if key in ours and old.get(key) != digest(english[key])
        ]
    return lines


def record(done: list[str]) -> None:
    now = {key: digest(text) for key, text in texts(ENGLISH).items()}
    kept = {language: old for language, old in recorded().items() if language in languages()}
    written = {**kept, **dict.fromkeys(done, now)}
    TRANSLATED_FROM.write_text(json.dumps(written, indent=1, sort_keys=True) + "\n", encoding="utf-8")


def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(
        prog="python -m tools.translations", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--done", nargs="+", choices=languages(), default=[], metavar="LANGUAGE")
    chosen = parser.parse_args(argv)
    if chosen.done:
        record(chosen.done)
    print("\n".join(left_to_do()) or "Every language says what English says.")


if __name__ == "__main__":
    main()
