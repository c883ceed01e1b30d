"""SOR against its recursion and theory; the bandits find what is best."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from optlab.linalg import sor, tuned_sor
from optlab.linalg._tuned_sor import _tsallis

SIDE = 8
_line = 2 * np.eye(SIDE) - np.eye(SIDE, k=1) - np.eye(SIDE, k=-1)
POISSON = jnp.asarray(np.kron(_line, np.eye(SIDE)) + np.kron(np.eye(SIDE), _line), jnp.float32)
B = jnp.asarray(np.random.default_rng(0).normal(size=SIDE**2), jnp.float32)


def test_is_the_recursion():
    x, info = sor(POISSON, B, 1.3, max_steps=3)
    expected = np.zeros(SIDE**2)
    a, b = np.asarray(POISSON, float), np.asarray(B, float)
    for _ in range(3):
        for i in range(SIDE**2):
            expected[i] += 1.3 * (b[i] - a[i] @ expected) / a[i, i]
    np.testing.assert_allclose(x, expected, atol=1e-5)
    assert int(info.iterations) == 3
    assert not info.converged


def test_solves_fastest_at_youngs_omega():
    best = 2 / (1 + np.sin(np.pi / (SIDE + 1)))
    run = jax.jit(lambda omega: sor(POISSON, B, omega, rtol=1e-5))
    counts = {omega: int(run(omega)[1].iterations) for omega in (1.0, 1.3, best, 1.8)}
    assert counts[best] == min(counts.values())
    assert counts[best] < counts[1.0] / 3
    x, info = run(best)
    assert info.converged
    np.testing.assert_allclose(POISSON @ x, B, atol=1e-3)


def test_tsallis_probabilities():
    """They sum to one and solve their equation: p_i = 4 / (eta (L_i - z))^2 for one z."""
    losses = jnp.array([0.0, 0.5, 3.0, 40.0])
    for count in (0, 3, 1000):
        p = np.asarray(_tsallis(losses, jnp.array(count)))
        assert p.sum() == pytest.approx(1, abs=1e-5)
        z = np.asarray(losses) - 2 / (2 / np.sqrt(count + 1) * np.sqrt(p))
        np.testing.assert_allclose(z, z[0], rtol=1e-3)
        assert (np.diff(p) < 0).all()


OMEGAS = (1.0, 1.2, 1.4, 1.5, 1.9)


def sequence(solver, shifts, contextual, seed=0):
    keys = jax.random.split(jax.random.key(seed), len(shifts))
    bs = jax.random.normal(jax.random.key(9), (len(shifts), SIDE**2))

    def step(state, inputs):
        shift, b, key = inputs
        matrix = POISSON + shift * jnp.eye(SIDE**2)
        context = shift if contextual else None
        _, info, omega, state = solver.solve(matrix, b, state, key=key, context=context)
        return state, (info.iterations, omega)

    return jax.jit(lambda: jax.lax.scan(step, solver.init(), (shifts, bs, keys)))()


def test_the_bandit_finds_the_best_omega():
    solver = tuned_sor(OMEGAS, rtol=1e-4, max_steps=200)
    state, (counts, omegas) = sequence(solver, jnp.zeros(300), False)
    assert int(state.count) == 300
    late = np.asarray(omegas[-100:])
    assert np.mean(np.isclose(late, 1.5)) + np.mean(np.isclose(late, 1.4)) > 0.7
    assert np.mean(counts[-100:]) < 0.5 * np.mean(counts[omegas == 1.0])  # Gauss-Seidel


def test_with_contexts_the_choice_depends_on_the_system():
    """A shift of 8 is solved best by omega near one, none by 1.5."""
    shifts = jnp.where(jnp.arange(300) % 2 == 0, 0.0, 8.0)
    solver = tuned_sor(OMEGAS, degree=1, contexts=(0.0, 8.0), rtol=1e-4, max_steps=200)
    _, (counts, omegas) = sequence(solver, shifts, True)
    late = np.asarray(omegas[-100:])
    assert np.median(late[::2]) >= 1.4
    assert np.median(late[1::2]) <= 1.2
    blind = sequence(tuned_sor(OMEGAS, rtol=1e-4, max_steps=200), shifts, False)[1][0]
    assert np.mean(counts[-100:]) < np.mean(blind[-100:])


def test_errors_name_the_argument():
    with pytest.raises(ValueError, match=r"^matrix must be square"):
        sor(jnp.ones((2, 3)), B, 1.0)
    with pytest.raises(ValueError, match=r"^omega "):
        sor(POISSON, B, 2.0)
    with pytest.raises(ValueError, match=r"^omegas "):
        tuned_sor([0.5, 2.5])
    solver = tuned_sor([1.0])
    with pytest.raises(ValueError, match=r"^context must be given if and only if"):
        solver.solve(POISSON, B, solver.init(), key=jax.random.key(0), context=1.0)
