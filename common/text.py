"""Names that come from files, as a terminal and a picture can show them."""


def visible(text: str) -> str:
    """`text` with escapes for what would not be seen: controls, marks of direction, surrogates."""
    return "".join(
        character if character.isprintable() else character.encode("unicode_escape").decode()
        for character in text
    )


def shorten(text: str, length: int) -> str:
    """`text`, visible, cut to `length` characters where it has more."""
    shown = visible(text)
    return shown if len(shown) <= length else f"{shown[: length - 1]}…"
