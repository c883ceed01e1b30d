"""The packages of the extra ``experiments``, which ``pip install optlab`` leaves out."""

import importlib.util

from optlab.training._config import ConfigError

__all__ = ["check_extras"]

_MODULES = {"matplotlib": "matplotlib", "scikit-learn": "sklearn", "tqdm": "tqdm"}


def check_extras() -> None:
    """Refuses to start a run that would miss a package later: for its data, its bar or its plots.

    Raises:
        ConfigError: if a package is missing.
    """
    missing = [name for name, module in _MODULES.items() if not importlib.util.find_spec(module)]
    if missing:
        raise ConfigError(
            f"training needs {', '.join(missing)}: pip install 'optlab[experiments]' brings it."
        )
