"""The solutions of the lessons' exercises: the same functions for each framework.

Each returns what it found, by name: the same names in the three, and the same values to 1e-12,
unless its docstring says that it differs.
"""

Answer = float | int | str | bool | list[float] | list[int] | list[str]
Answers = dict[str, Answer]
