"""Bad input: a table of what is given to the commands, and of what they make of it.

`test_bad_input` tries each row against the functions that it names, and a row of each kind with
the commands; with the mark `full`, every row with every command. `python -m parity_tests.bad_input`
does so too and prints the table as Markdown.

A row is tried in a folder of its own, which holds

    data/               two small training pairs and one to validate
    W.safetensors       weights for its six classes, of a narrow network
    result.json, out.safetensors, out/kept.png      earlier results

    run/                for `resume` alone: a run of three steps, stopped after one

and in which the commands of `trial.COMMANDS` work. What the row says is done first; then a command

- refuses: one line on standard error, exit code 2, and the folder is as it was;
- finishes: one such line, exit code 2, and the rest is done;
- stops: one such line, exit code 2, in the middle; what was there, and what it had done, stays;
- notes: exit code 0, and one line on standard error that is no error, but to be known;
- accepts: exit code 0, nothing on standard error.

Where the row says what the input is `like`, the result is that of the input which it is like.

`trial` tries a row, `files` spoils any file; every other module is of one subject: what spoils it,
and its rows.
"""

from parity_tests.bad_input import commands, data, voc2012, weights

ROWS = [row for of in (data, weights, commands, voc2012) for row in of.ROWS]
