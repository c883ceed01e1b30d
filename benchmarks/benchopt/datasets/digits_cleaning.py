"""Data cleaning on scikit-learn's digits: small, offline, and with an exact value function."""

import jax
import jax.numpy as jnp
import numpy as np
from benchopt import BaseDataset
from jaxopt import LBFGS
from sklearn.datasets import load_digits

CLASSES = 10


def _losses(weights, features, labels):
    logits = features @ weights.reshape(features.shape[1], CLASSES)
    return jax.nn.logsumexp(logits, axis=1) - jnp.sum(labels * logits, axis=1)


class Dataset(BaseDataset):
    """Weights for 1,024 training images, of which a share has random labels, from 384 clean ones.

    The ``value`` of x is the outer objective at the inner solution, found by L-BFGS; beside it the
    test error there, and the F1 score of "weight above one half" for "label is clean".
    """

    name = "digits_cleaning"
    requirements = ("scikit-learn", "pip::jaxopt")
    parameters = {"ratio": [0.4], "reg": [1e-3], "random_state": [1]}  # noqa: RUF012

    def get_data(self):
        """Gives the two problems, the metrics and no start: the benchmark's own."""
        rng = np.random.default_rng(self.random_state)
        features, labels = load_digits(return_X_y=True)
        order = rng.permutation(len(labels))
        pixels, ones = np.asarray(features) / 16.0, np.ones((len(labels), 1))
        features, labels = np.concatenate([pixels, ones], axis=1)[order], labels[order]
        noisy = labels[:1024].copy()
        corrupted = rng.random(1024) < self.ratio
        # Every one of them is wrong: a shift by 1 to 9 modulo 10.
        shifts = rng.integers(1, CLASSES, corrupted.sum())
        noisy[corrupted] = (noisy[corrupted] + shifts) % CLASSES

        parts = np.split(jnp.asarray(features, jnp.result_type(0.0)), (1024, 1408))
        train, validation, test = map(jnp.asarray, parts)
        noisy, clean = (
            jnp.asarray(np.eye(CLASSES)[y], train.dtype) for y in (noisy, labels[1024:1408])
        )
        test_labels = jnp.asarray(labels[1408:])

        def f_inner(inner_var, outer_var, start=0, batch_size=1):
            rows, y, x = (
                jax.lax.dynamic_slice_in_dim(a, start, batch_size)
                for a in (train, noisy, outer_var)
            )
            fit = jnp.mean(jax.nn.sigmoid(x) * _losses(inner_var, rows, y))
            return fit + self.reg * jnp.sum(inner_var**2)

        def f_outer(inner_var, outer_var, start=0, batch_size=1):
            del outer_var
            rows, y = (
                jax.lax.dynamic_slice_in_dim(a, start, batch_size) for a in (validation, clean)
            )
            return jnp.mean(_losses(inner_var, rows, y))

        def whole_inner(inner_var, outer_var):
            return f_inner(inner_var, outer_var, 0, 1024)

        def whole_outer(inner_var, outer_var):
            return f_outer(inner_var, outer_var, 0, 384)

        solver = LBFGS(whole_inner, tol=1e-5, maxiter=500)

        @jax.jit
        def evaluate(inner_var, outer_var):
            solution = solver.run(inner_var, outer_var).params
            logits = test @ solution.reshape(test.shape[1], CLASSES)
            kept, right = outer_var > 0, jnp.asarray(~corrupted)
            hits = jnp.sum(kept & right)
            return {
                "value": whole_outer(solution, outer_var),
                "test_error": jnp.mean(jnp.argmax(logits, axis=1) != test_labels),
                "f1": 2 * hits / (jnp.sum(kept) + jnp.sum(right)),
            }

        def metrics(inner_var, outer_var):
            found = evaluate(inner_var, outer_var)
            return {name: float(value) for name, value in found.items()}

        return {
            "pb_inner": (f_inner, 1024, features.shape[1] * CLASSES, whole_inner),
            "pb_outer": (f_outer, 384, 1024, whole_outer),
            "metrics": metrics,
        }
