"""`python -m scripts.choose`: one page that says which framework to take for this work, here.

`candidates` says what is measured and makes rows of it, `facts` tells of what is installed and of
our own source, `proof` compares the backends, `rule` decides from the numbers, `page` shows all.
"""
