"""How the tabs of the book's editions depart from this network, each departure made alone.

`python -m parity_tests.departures` trains the plain network and each departure, and tells what it
does to the loss and to the mean IoU.
"""
