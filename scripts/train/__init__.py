"""`python -m scripts.train`: a training run, new or resumed."""
