"""The full posterior over parameters, by NumPyro's No-U-Turn sampler (Hoffman & Gelman 2014; Phan et al. 2019)."""

from __future__ import annotations

import functools
import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import torch
from torch import Tensor

from zoo.bayes import joint as bayes
from zoo.bayes.draws import Draws
from zoo.core.contract import LatentVariableModel, lacks
from zoo.core.data import Data, call, map_tensors
from zoo.core.matching import match
from zoo.core.problem import Problem
from zoo.core.state import restore, snapshot
from zoo.errors import ZooError
from zoo.estimators.base import Estimator, Outcome, Run, at_least, moves_all, of_rows_alone
from zoo.storage.checkpoint import set_random_state

__all__ = ["NUTS", "relabelled"]

#: Draws that the compiled sampler makes before it looks at the clock.
CHUNK = 50
#: Standard deviation, in unconstrained space, of chains' starts about the model's parameters.
JITTER = 0.1


@dataclass(frozen=True)
class NUTS(Estimator):
    """Samples p(θ | x) under the priors that ``numpyro_model`` states; latents of each datum are summed out there.

    Hoffman & Gelman (2014), "The No-U-Turn sampler"; run by NumPyro (Phan, Pradhan & Jankowiak 2019).

    Chains start about the model's present parameters. Components and factors may be renumbered and turned without
    changing the posterior, so every draw is brought into line with the most probable one before anything is
    averaged (``relabelled``). The fitted model holds posterior means, ``fit.draws`` the draws. Status "converged"
    means a largest R-hat below 1.01 and no divergence.

    Attributes:
        num_warmup: draws of each chain that tune step size and metric and are thrown away.
        num_samples: draws kept of each chain.
        num_chains: chains, run side by side.
        target_accept: mean acceptance probability to tune for; nearer 1 takes smaller steps.
    """

    name: ClassVar[str] = "nuts"
    about_e: ClassVar[str] = "exact posterior, of the parameters too"
    about_m: ClassVar[str] = "–: parameters are drawn (NumPyro)"

    num_warmup: int = 1000
    num_samples: int = 1000
    num_chains: int = 4
    target_accept: float = 0.8

    def refuses(self, problem: Problem) -> str | None:
        at_least("nuts", 1, num_warmup=self.num_warmup, num_chains=self.num_chains)
        at_least("nuts", 4, num_samples=self.num_samples)
        if not 0 < self.target_accept < 1:
            raise ZooError(f"nuts: target_accept expected a number between 0 and 1, got {self.target_accept}. Try 0.9.")
        return problem.lacks("numpyro_model") or moves_all(problem.model, "posterior") or of_rows_alone(problem)

    def run(self, problem: Problem, run: Run) -> Outcome:
        model, x = problem.model, problem.data
        seed = int(torch.randint(2**31 - 1, ()))
        sampler = _Sampler(model, x, self, seed)
        if sampler.infinite:
            note = "the starting point has posterior density zero (or NaN); try another init"
            return Outcome("diverged", -math.inf, [note], exact_q=True)
        began, status = snapshot(model), "converged"
        made: list[tuple[dict[str, Tensor], dict[str, Tensor]]] = []
        kept, wanted = -int(self.num_warmup), int(self.num_samples)
        found = run.resume(self.name)
        if found is not None:
            kept, made = found.record["kept"], [(found.part("values"), found.part("stats"))]
            made = made if made[0][0] else []
            sampler.load(found.part("sampler"))
            set_random_state(found.record["random"], found.tensors)
        try:
            while kept < wanted:
                values, stats = sampler.draw(CHUNK)
                first = max(0, -kept)  # the rest of the warm-up
                kept += CHUNK
                if kept > 0:
                    last = CHUNK - max(0, kept - wanted)
                    made.append(tuple({n: v[:, first:last] for n, v in part.items()} for part in (values, stats)))  # type: ignore[arg-type]
                    bayes.set_means(model, relabelled(model, *_joined(made)).flat())
                    for lp in made[-1][1]["lp"].mean(0).tolist():
                        run.record(lp, fraction=min(1.0, (len(run.history["objective"]) + 1) / wanted))
                if sum(run.due() for _ in range(CHUNK)):  # every draw is a step
                    joined = _joined(made) if made else ({}, {})
                    groups = dict(zip(("values", "stats", "sampler"), (*joined, sampler.tensors()), strict=True))
                    run.save(self.name, {"kept": kept}, groups)
                if kept > 0 and run.out_of_time:
                    break
        except KeyboardInterrupt:
            status = "interrupted"
        if not made:
            restore(model, began)
            return Outcome(status, -math.inf, ["no draw was kept"], exact_q=True)
        draws = relabelled(model, *_joined(made))
        bayes.set_means(model, draws.flat())
        try:
            draws = draws.diagnosed()
            notes = [str(draws), *_complaints(draws)]
        except Exception as error:  # what the installed ArviZ does not take: the draws are made
            notes = [f"draws not diagnosed: {type(error).__name__}: {error}"]
        if status == "converged" and len(notes) > 1:
            status = "max_iter"
        return Outcome(status, run.history["objective"][-1], notes, exact_q=True, draws=draws)


class _Sampler:
    """NumPyro's NUTS on a model's program, a chunk of draws at a time, so that it is compiled once.

    ``numpyro.infer.MCMC`` compiles anew for every call and tells nothing on the way.
    """

    def __init__(self, model: LatentVariableModel, x: Data, options: NUTS, seed: int) -> None:
        import jax
        from numpyro.infer import NUTS as Kernel
        from numpyro.infer.util import constrain_fn, potential_energy

        from zoo.bayes.numpyro import double_precision

        self.context = double_precision
        as_array: Any = lambda t: t.detach().cpu().numpy()  # noqa: E731
        arrays = map_tensors(as_array, x)
        program = functools.partial(call, model.numpyro_model, arrays)
        with double_precision():
            potential = functools.partial(potential_energy, program, (), {})
            kernel = Kernel(potential_fn=potential, target_accept_prob=float(options.target_accept))
            keys = jax.random.split(jax.random.PRNGKey(seed), 2)
            chains = int(options.num_chains)
            start = jax.jit(jax.vmap(functools.partial(_start, program, _present(model, x))))
            params = start(jax.random.split(keys[0], chains))
            self.infinite = not bool(np.isfinite(jax.jit(jax.vmap(potential))(params)).all())
            if self.infinite:
                return
            # Compiled too: run step by step, jax would compile every operation of it alone.
            begin = jax.jit(lambda each, params: kernel.init(each, int(options.num_warmup), params, (), {}))
            self.state = begin(jax.random.split(keys[1], chains), params)

            def step(state: Any, _: None) -> tuple[Any, Any]:
                state = kernel.sample(state, (), {})
                told = {
                    "lp": -state.potential_energy,
                    "energy": state.energy,
                    "diverging": state.diverging,
                    "n_steps": state.num_steps,
                    "acceptance_rate": state.accept_prob,
                    "step_size": state.adapt_state.step_size,
                }
                return state, (state.z, told)

            def advance(state: Any, length: int) -> tuple[Any, Any, Any]:
                state, (z, told) = jax.lax.scan(step, state, None, length=length)
                constrained = jax.vmap(jax.vmap(lambda p: constrain_fn(program, (), {}, p, return_deterministic=True)))
                return state, constrained(z), told

            self.advance = jax.jit(advance, static_argnums=1)

    def draw(self, length: int) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
        """The next draws by site, and what the sampler tells of them: (chains, length, ...)."""
        with self.context():
            self.state, values, told = self.advance(self.state, length)

            def tensor(value: Any) -> Tensor:
                return torch.from_numpy(np.array(value)).transpose(0, 1).contiguous()

            return {n: tensor(v) for n, v in values.items()}, {n: tensor(v) for n, v in told.items()}

    def tensors(self) -> dict[str, Tensor]:
        """Where the chains are, and their tuning."""
        import jax

        leaves = [np.array(leaf) for leaf in jax.tree_util.tree_leaves(self.state)]
        return {f"{i:03d}": torch.from_numpy(leaf.view(_stored(leaf))) for i, leaf in enumerate(leaves)}

    def load(self, values: dict[str, Tensor]) -> None:
        """Take over what :meth:`tensors` gave."""
        import jax

        leaves, shape = jax.tree_util.tree_flatten(self.state)
        with self.context():
            arrays = [values[name].numpy().view(leaf.dtype) for name, leaf in zip(sorted(values), leaves, strict=True)]
            self.state = jax.tree_util.tree_unflatten(shape, [jax.numpy.asarray(array) for array in arrays])


def _stored(leaf: np.ndarray) -> Any:
    """The dtype whose bits a checkpoint holds: files of tensors know no unsigned ones."""
    return np.dtype(f"i{leaf.dtype.itemsize}") if leaf.dtype.kind == "u" else leaf.dtype


def _present(model: LatentVariableModel, x: Data) -> dict[str, Any]:
    """The model's parameters in the space of its prior's sites, or, without a prior, by their own names."""
    if lacks(model, "prior") is None:
        names: Any = call(model.prior, x)
    else:
        names = [name.removesuffix("_unconstrained") for name, _ in model.named_parameters()]
    return {name: value.cpu().numpy() for name, value in bayes.site_values(model, names).items()}


def _start(program: Callable[[], None], present: dict[str, Any], key: Any) -> dict[str, Any]:
    """A chain's start, unconstrained: near the present value of a site that has one, else uniform."""
    import jax
    import jax.numpy as jnp
    from numpyro import handlers
    from numpyro.distributions import biject_to

    def near(site: dict[str, Any]) -> Any:
        if site["type"] != "sample" or site["is_observed"]:
            return None
        fn = site["fn"]
        if getattr(fn.support, "is_discrete", False):
            raise ZooError(f"nuts: site {site['name']!r} expected to be continuous, got a discrete one. Sum it out.")
        bijection, shape = biject_to(fn.support), (*fn.batch_shape, *fn.event_shape)
        free = bijection.inverse_shape(shape)
        anywhere = jax.random.uniform(site["kwargs"]["rng_key"], free, minval=-2.0, maxval=2.0)
        value = present.get(site["name"])
        if value is None or value.shape != shape:
            return bijection(anywhere)
        centre = bijection.inv(jnp.asarray(value))
        noise = JITTER * jax.random.normal(site["kwargs"]["rng_key"], free)
        return bijection(jnp.where(jnp.isfinite(centre), centre, anywhere) + noise)

    seeded = handlers.substitute(handlers.seed(program, key), substitute_fn=near)
    sites = handlers.trace(seeded).get_trace()
    return {
        name: biject_to(site["fn"].support).inv(site["value"])
        for name, site in sites.items()
        if site["type"] == "sample" and not site["is_observed"]
    }


def _joined(made: list[tuple[dict[str, Tensor], dict[str, Tensor]]]) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    values, stats = ({n: torch.cat([part[i][n] for part in made], 1) for n in made[0][i]} for i in (0, 1))
    return values, stats


def _complaints(draws: Draws) -> list[str]:
    """What keeps the draws from being trusted, a line each."""
    found = []
    rhat, divergences = draws.diagnostics["max_rhat"], draws.diagnostics["divergences"]
    if not rhat < 1.01:
        found.append(f"the largest R-hat is {rhat:.3f}, not below 1.01: raise num_warmup and num_samples")
    if divergences:
        found.append(f"{divergences} divergent draws: raise target_accept towards 1")
    return found


# Labels and rotations -------------------------------------------------------------------------------------------------

#: The dimensions of a site that run over components.
COMPONENT_DIMS: dict[str, tuple[int, ...]] = {
    "weights": (0,),
    "start_probs": (0,),
    "transition_probs": (0, 1),
    "means": (0,),
    "rates": (0,),
    "scales": (0,),
    "correlations": (0,),
    "scale_tril": (0,),
}


def relabelled(model: LatentVariableModel, values: dict[str, Tensor], stats: dict[str, Tensor]) -> Draws:
    """The draws with each one's components renumbered, or its factors turned, to agree with the most probable draw.

    Components are matched by ``means`` or ``rates`` (Hungarian method, :func:`zoo.core.matching.match`; Marin,
    Mengersen & Robert 2005 call the most probable draw the pivot). Loadings are turned by orthogonal Procrustes
    (Aßmann, Boysen-Hogrefe & Pape 2016). A program with other sites is taken to name its components itself.

    Args:
        values: by site, (chains, draws, ...). stats: ``lp``, ln p(θ, x) up to a constant, (chains, draws).
    """
    pivot = int(stats["lp"].flatten().nan_to_num(-math.inf).argmax())
    chains, draws = stats["lp"].shape
    flat = {name: value.flatten(0, 1) for name, value in values.items()}
    if flat.keys() == {"loadings", "mean", "noise_variance"}:
        scale = flat["noise_variance"].mean(0).sqrt().unsqueeze(-1)
        whitened = flat["loadings"] / scale
        u, _, vh = torch.linalg.svd(whitened.mT @ whitened[pivot])
        flat["loadings"] = flat["loadings"] @ (u @ vh)
    elif flat.keys() <= COMPONENT_DIMS.keys() and ("means" in flat or "rates" in flat):
        features = flat["means"] if "means" in flat else flat["rates"]
        spread = features.flatten(0, 1).std(0).clamp_min(torch.finfo(features.dtype).tiny)
        distance = torch.cdist((features[pivot] / spread).expand_as(features), features / spread).square()
        order = _orders(distance)
        rows = model.per_component
        tied = "scale_tril" in flat and rows is not None and "scale_tril" not in rows
        for name, value in flat.items():
            if tied and name in ("scales", "correlations", "scale_tril"):
                continue
            for dim in COMPONENT_DIMS[name]:
                shape = [-1, *([1] * dim), order.shape[1], *([1] * (value.dim() - dim - 2))]
                value = torch.gather(value, dim + 1, order.reshape(shape).expand_as(value))
            flat[name] = value
    return Draws({name: value.reshape(chains, draws, *value.shape[1:]) for name, value in flat.items()}, stats)


def _orders(distance: Tensor) -> Tensor:
    """For each draw the order of its components that matches the pivot's, (S, K); distances (S, pivot's, draw's)."""
    order = distance.argmin(-1)
    clash = (order.sort(-1).values != torch.arange(order.shape[1])).any(-1)
    for s in clash.nonzero().flatten().tolist():
        order[s] = match(-distance[s], order.shape[1])
    return order
