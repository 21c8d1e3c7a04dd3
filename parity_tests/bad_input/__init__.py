"""What is done to the commands' input, and what they make of it: a table, and `test_bad_input`.

`python -m parity_tests.bad_input` tries every row and prints the table as Markdown.

A row is tried in a folder of its own, which holds

    data/               a shapes set: two training pairs and one to validate
    W.safetensors       weights for its six classes
    result.json, out.safetensors, out/kept.png      earlier results

    run/                for `resume` alone: a run of two steps, stopped after one

and in which the commands of `trial.COMMANDS` work. A row's fault is put in first; then a command

- refuses: one line on standard error, exit code 2, and the folder is as it was;
- finishes: one such line, exit code 2, and the rest is done;
- stops: one such line, exit code 2, in the middle; what was there, and what it had done, stays;
- notes: exit code 0, and one line on standard error that is no error, but to be known;
- accepts: exit code 0, nothing on standard error.

Where the row says what the input is `like`, the result is that of the input which it is like.

`trial` tries a row, `files` spoils any file; every other module is of one subject: what spoils it,
and its rows.
"""

from parity_tests.bad_input import folders, machine, pictures, runs, voc2012, weights

ROWS = [
    *pictures.ROWS,
    *folders.ROWS,
    *weights.ROWS,
    *machine.ROWS,
    *runs.ROWS,
    *voc2012.ROWS,
]
