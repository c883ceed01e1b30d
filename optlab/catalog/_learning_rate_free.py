"""Rows of ``optlab.transforms.learning_rate_free``."""

from optlab.catalog._method import Method

__all__ = ["ROWS"]

_FAMILY = "transforms.learning_rate_free"
_SYMBOL = f"optlab.{_FAMILY}."

ROWS = (
    Method(
        name="dadapt_adagrad",
        family=_FAMILY,
        symbol=_SYMBOL + "dadapt_adagrad",
        summary="AdaGrad by dual averaging, its step from a lower bound of the distance to solve",
        papers=("defazio2023dadaptation",),
        arguments={"learning_rate": 1.0},
        state_bytes=12.0,
        config="learning_rate_free_dadapt_adagrad_fashion_mnist.py",
    ),
    Method(
        name="dadapt_adam",
        family=_FAMILY,
        symbol=_SYMBOL + "dadapt_adam",
        summary="Adam whose step size D-Adaptation sets",
        papers=("defazio2023dadaptation",),
        arguments={"learning_rate": 1.0},
        state_bytes=12.0,
        config="learning_rate_free_dadapt_adam_fashion_mnist.py",
    ),
    Method(
        name="dadapt_lion",
        family=_FAMILY,
        symbol=_SYMBOL + "dadapt_lion",
        summary="Lion whose step size D-Adaptation sets; experimental",
        papers=("defazio2023dadaptation", "chen2023lion"),
        arguments={"learning_rate": 1.0},
        state_bytes=8.0,
        config="learning_rate_free_dadapt_lion_fashion_mnist.py",
    ),
    Method(
        name="dadapt_sgd",
        family=_FAMILY,
        symbol=_SYMBOL + "dadapt_sgd",
        summary="SGD with momentum by averaging, whose step size D-Adaptation sets",
        papers=("defazio2023dadaptation",),
        arguments={"learning_rate": 1.0},
        state_bytes=8.0,
        config="learning_rate_free_dadapt_sgd_fashion_mnist.py",
    ),
    Method(
        name="dog",
        family=_FAMILY,
        symbol=_SYMBOL + "dog",
        summary="SGD with the step size distance over gradients; evaluate its average",
        papers=("ivgi2023dog",),
        arguments={"learning_rate": 1.0},
        state_bytes=4.0,
        config="learning_rate_free_dog_fashion_mnist.py",
    ),
    Method(
        name="ldog",
        family=_FAMILY,
        symbol=_SYMBOL + "ldog",
        summary="DoG with a step size for each leaf",
        papers=("ivgi2023dog",),
        arguments={"learning_rate": 1.0},
        state_bytes=4.0,
        config="learning_rate_free_ldog_fashion_mnist.py",
    ),
    Method(
        name="mechanic",
        family=_FAMILY,
        symbol=_SYMBOL + "mechanic",
        summary="learns the factor of any optimizer's updates; Adam's if none is given",
        papers=("cutkosky2023mechanic",),
        arguments={"learning_rate": 1.0},
        state_bytes=12.0,
        config="learning_rate_free_mechanic_fashion_mnist.py",
    ),
    Method(
        name="prodigy",
        family=_FAMILY,
        symbol=_SYMBOL + "prodigy",
        summary="Adam whose step is an estimate of the distance to solve, exact in float32",
        papers=("mishchenko2024prodigy",),
        arguments={"learning_rate": 1.0},
        state_bytes=16.0,
        config="learning_rate_free_prodigy_fashion_mnist.py",
    ),
    Method(
        name="polynomial_averaging",
        family=_FAMILY,
        symbol=_SYMBOL + "polynomial_averaging",
        summary="a running average of the params, weighted towards the last",
        papers=("shamir2013averaging", "ivgi2023dog"),
        unswept="an average for the end of a chain",
        state_bytes=4.0,
        config="learning_rate_free_polynomial_averaging_fashion_mnist.py",
    ),
)
