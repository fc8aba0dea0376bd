__version__ = "0.1.0"


def __getattr__(name):
    "Import `BearClassifier` when it is first asked for, so that `import bear_classifier` costs nothing"
    if name != 'BearClassifier': raise AttributeError(f'module {__name__!r} has no attribute {name!r}')
    from .infer import BearClassifier
    return BearClassifier
