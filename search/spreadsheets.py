"""Texts of others in a CSV that a spreadsheet opens."""

_FORMULA_STARTS = (
    "=",
    "+",
    "-",
    "@",
    "|",
    "\t",
    "\r",
    "\n",
    "\uff1d",
    "\uff0b",
    "\uff0d",
    "\uff20",
)  # the last are wide


def harmless(text: str) -> str:
    """Return text that no spreadsheet evaluates as a formula."""
    formula = text.startswith(_FORMULA_STARTS) or text.lstrip().startswith(_FORMULA_STARTS)
    return f"'{text}" if formula else text
