"""TorchOpt's hypergradients; run by the interpreter of torch's own environment.

Reads an npz of problems, writes a JSON list of rows to standard output.
"""

import json
import statistics
import sys
import time

__all__ = ["main"]


def _problem(torch, data, name, dtype):
    tensor = lambda key: torch.as_tensor(data[f"{name}/{key}"], dtype=dtype)  # noqa: E731
    x, y = tensor("x"), tensor("y")
    train, held_out = (tensor("a"), tensor("b")), (tensor("c"), tensor("d"))

    def half_mean_square(y, batch):
        return 0.5 * ((batch[0] @ y - batch[1]) ** 2).mean()

    def cross_entropies(y, batch):
        return -(torch.log_softmax(batch[0] @ y, dim=-1) * batch[1]).sum(-1)

    if name.startswith("ridge"):
        outer = lambda y: half_mean_square(y, held_out)  # noqa: E731
        inner = lambda x, y: (  # noqa: E731
            half_mean_square(y, train) + 0.5 * (torch.exp(x) * y**2).sum()
        )
    else:
        outer = lambda y: cross_entropies(y, held_out).mean()  # noqa: E731
        if name == "logreg_dig":
            inner = lambda x, y: (  # noqa: E731
                cross_entropies(y, train).mean() + 0.5 * (torch.exp(x) * (y**2).sum(dim=1)).sum()
            )
        else:
            inner = lambda x, y: (  # noqa: E731
                (torch.sigmoid(x) * cross_entropies(y, train)).mean() + 1e-3 * (y**2).sum()
            )
    return outer, inner, x, y


def _hypergradient(torch, torchopt, outer, inner, x, y, solver):
    def optimality(y, x):
        with torch.enable_grad():
            return torch.func.grad(lambda y: inner(x, y))(y)

    options = {} if solver is None else {"solve": solver}

    @torchopt.diff.implicit.custom_root(optimality, argnums=1, **options)
    def solution(y, x):
        return y

    def run():
        variable = x.clone().requires_grad_()
        return torch.autograd.grad(outer(solution(y.clone().requires_grad_(), variable)), variable)[
            0
        ]

    return run


def main(path: str, repeats: int) -> None:
    """Measures all problems of a file; prints the rows."""
    import numpy as np
    import torch
    import torchopt

    rows = []
    with np.load(path) as file:
        data = dict(file)
    solvers = {
        "torchopt default (normal_cg)": None,
        "torchopt cg(100, 1e-10)": torchopt.linear_solve.solve_cg(maxiter=100, rtol=1e-10),
    }
    for name in sorted({key.split("/")[0] for key in data}):
        exact = data[f"{name}/h"]
        for label, solver in solvers.items():
            row = {"problem": name, "method": label, "products": None, "float64": {}, "float32": {}}
            for dtype in ("float64", "float32"):
                problem = _problem(torch, data, name, getattr(torch, dtype))
                run = _hypergradient(torch, torchopt, *problem, solver)
                h = run().double().numpy()
                seconds = []
                for _ in range(repeats):
                    start = time.process_time()
                    run()
                    seconds.append(time.process_time() - start)
                row[dtype] = {
                    "error": float(np.linalg.norm(h - exact) / np.linalg.norm(exact)),
                    "failed": None,
                    "milliseconds": 1e3 * statistics.median(seconds),
                }
            rows.append(row)
    json.dump(
        {"rows": rows, "versions": {"torch": torch.__version__, "torchopt": "0.7.3"}}, sys.stdout
    )


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]))
