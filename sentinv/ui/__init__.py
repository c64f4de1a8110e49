"""The page: a folder of learned words, one model, and a browser in front of both."""
