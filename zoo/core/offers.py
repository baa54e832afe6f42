"""Everything a model may offer beyond its two programs: what each says, and which programs it is written for.

The library asks a model for these by name, through :func:`zoo.core.contract.lacks`, and for nothing else that the base
class does not have. ``docs/your_own_model.md`` is printed from here.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

__all__ = ["ARGUMENTS", "OFFERS", "Offer", "follows"]


class Offer(NamedTuple):
    """A method that a model may have.

    Attributes:
        says: what it answers, and what that unlocks.
        follows: the programs it is written for (or another offer): a subclass that overrides one leaves an inherited
            method behind.
        takes: its arguments.
    """

    says: str
    follows: tuple[str, ...] = ()
    takes: str = "x"


OFFERS: dict[str, Offer] = {
    "guide": Offer("q(z | x), a Pyro program over the same latents: every estimator that climbs a bound"),
    # Exact answers
    "log_marginal": Offer("exact ln p(x) of each datum, (N,) nats, differentiable: the fast path of `eg`", ("model",)),
    "posterior": Offer("exact p(z | x): a distribution of batch shape (N,), or a dict of them by site", ("model",)),
    "structure": Offer("exact p(z | x) of whole paths, a `zoo.structures.Structure`: `fit.structure`", ("model",)),
    "predict": Offer("the most probable z of each datum: labels (N,) or a mean (N, L)", ("model",)),
    "parse": Offer("of sentences: the most probable trees, to read; None where there is none", ("model",)),
    "viterbi": Offer("of a chain of states: the most probable path (N, T) and ln p(path, x) (N,) nats", ("model",)),
    "state_probs": Offer(
        "of a chain of states above other latents: q(z_t = k | x) under the guide, (N, T, K)", ("model", "guide")
    ),
    "state_means": Offer("what a frame is expected to be in each state, (K, D): a picture of states", ("model",), ""),
    "sample_posterior": Offer("joint draws of a chain's states, (S, N, T)", ("model",), "x, S"),
    "sample_like": Offer("new data from p(x), of a template's shape, without running the program", ("model",), "x, N"),
    # EM
    "e_step": Offer(
        "expected `Statistics`, which add over data; `hard` counts the most probable z alone: `em` and its kin; told "
        "of `weights` (N,) and `known` latents if it declares them",
        ("model",),
        "x, hard=False",
    ),
    "m_step": Offer("sets the parameters; gives notes on any constraint that acted", (), "statistics"),
    "copies": Offer(
        "the E and M steps of several copies of it at once, a `zoo.core.copies.Copies`, or None: `em` from many starts",
        ("model",),
        "x, models",
    ),
    "starting": Offer(
        "`initialize`, as a generator that asks (`zoo.components.questions`) for M steps and climbs: many starts",
        ("model",),
        "x, init, restart",
    ),
    "lift": Offer(
        "lifts what lies below its floors (of covariances, of noise) to them, but for what is held there; gives masks "
        "of what was, by the names of `named_parameters`, and notes on all: climbs by a quasi-Newton method",
        ("model",),
        "x, held",
    ),
    "closed_form": Offer(
        "sets the parameters by a formula: to the exact maximum of the likelihood where there is one; gives notes",
        ("model",),
    ),
    "closed_form_statistics": Offer(
        "what the formula needs of the data, which adds (`+`): `closed_form` of data that are read in pieces; told of "
        "`weights` (N,) if it declares them",
        ("model", "closed_form"),
    ),
    "closed_form_of": Offer("sets the parameters by the formula; gives notes", (), "statistics"),
    # Energies
    "free_energy": Offer("-ln of the sum of exp(-energy) over what is hidden, (N,) nats", ("model",)),
    "annealing_path": Offer(
        "the way from independent units to its energy, a `zoo.core.annealing.AnnealingPath`: `cd`, `pcd`, `tempering`",
        ("model",),
        "",
    ),
    "contrast": Offer(
        "of data and of chains, -ln of the sums over what is hidden, (N,) and (S,) nats, cheaply differentiated, and "
        "chains after one more sweep: fast `cd`, `pcd`, `tempering`",
        ("model",),
        "x, chains=chains, sweep",
    ),
    "annealed_log_partition": Offer(
        "ln Z and its standard error by annealed importance sampling, from below or (`reverse`) above",
        ("model",),
        "",
    ),
    "recall": Offer(
        "of a memory: the stable state that each x leads to, (N, D): `zoo evaluate` counts what is kept", ("model",)
    ),
    "pseudo_log_likelihood": Offer(
        "the sum of ln p of each unit given all others, (N,) nats: a score where ln Z is not known", ("model",)
    ),
    "gibbs": Offer(
        "the ends of S chains of Gibbs sampling from data, (S, D): a picture", ("model",), "S, num_sweeps, start=x"
    ),
    "relax": Offer(
        "sets the guide to the best mean field of many relaxations, and tells `seen(bound, fraction)` on the way; "
        "gives notes: `mean_field`",
        ("model", "guide"),
        "x, starts, dynamics, seen",
    ),
    # Priors over parameters
    "prior": Offer("by parameter, its prior, a Pyro distribution: `advi`", ("model",)),
    "numpyro_model": Offer("the joint of data and parameters as a NumPyro program: `nuts`", ("model",)),
    # Bounds without Pyro's handlers: the same numbers as the programs give under the same random numbers
    "elbo": Offer("the guide's bound on each ln p(x), (N,) nats, summed exactly: fast `svi`", ("model", "guide")),
    "elbo_parts": Offer(
        "(bound, parts), each (N,) nats, at S draws a datum: fast `svi`", ("model", "guide"), "x, num_particles=S"
    ),
    "denoising": Offer(
        "E ln p(x | spoilt x) of each datum, (N,) nats, by S draws of noise that counts nowhere: fast `svi`, in a "
        "column of that name",
        ("model", "guide"),
        "x, num_particles=S",
    ),
    "log_weights": Offer(
        "ln p(x, z_k) - ln q(z_k | x), (K, N) nats, differentiable: fast `iwae`",
        ("model", "guide"),
        "x, num_particles=K",
    ),
    "choices": Offer(
        "p(x, z) and q(z | x) of discrete latents as tables, a `zoo.core.choices.Choices`: fast `svi`, `gumbel`, "
        "`st_gumbel`, `reinforce`, `iwae`, `rws`",
        ("model", "guide"),
    ),
    # Sequences, taken step by step
    "particles": Offer(
        "a `zoo.core.particles.Particles` for sequences `x`, `lengths`, the longest first, which draws z_t from the "
        'guide or, of `proposal="prior"`, from p(z_t | z_<t, x_<t): `fivo`',
        ("model", "guide"),
        "x, num_particles=S, proposal",
    ),
    "filter": Offer("what x_1..x_t say of z_t: its mean (N, T, L), or p(z_t = k) (N, T, K): `fit.filter`", ("model",)),
    "continuation": Offer(
        "draws of what follows each sequence x, (S, N, num_steps, D), of tokens (S, N, num_steps): `fit.forecast`",
        ("model",),
        "x, num_steps, S",
    ),
    "continuation_probs": Offer(
        "of sequences of tokens: exact p(x_{T+h} = v | x_1..x_T), (N, num_steps, V): `fit.forecast_probs`",
        ("model",),
        "x, num_steps",
    ),
    "reconstruct": Offer("E[x] under the guide: of sequences (N, T, D), of vectors (N, D)", ("model", "guide"), "x, S"),
    "pretraining": Offer("stages of gradient steps that come before all others", (), "problem"),
    "take_layers": Offer(
        "starts its networks from layers of sigmoid units that were learned from below: `zoo.deep_belief_net`",
        (),
        "layers, x",
    ),
    "posterior_means": Offer("E_q [z | x], (N, L), by S draws where there is no formula", ("guide",), "x, S"),
    "encoded": Offer("the code of data, (N, H), where it is no latent of the programs: `fit.transform`"),
    "corrupt": Offer("data spoilt as an encoder of theirs sees them, (N, D): a picture", ("model",), "x, seed"),
    "filters": Offer("what each unit of the first layer looks at, (H, D): a picture", (), ""),
    # The data's own noise and units
    "resample": Offer("a batch with its own noise drawn anew: dynamic binarisation"),
    "settle": Offer("data with that noise drawn once, for a score", (), "x, seed"),
    "from_pixels": Offer("what the programs draw, in the units of the data"),
    "measure": Offer("keeps what priors and floors are measured by, of data whose rows have weights"),
    # Components, and what a model can rule out
    "permute_components": Offer("renumbers the components: `zoo.align`", (), "order"),
    "align_features": Offer("what tells the components apart, (K, F): `zoo.align` without data", (), ""),
    "rules_out": Offer("whether there may be data of probability zero", ("model",), ""),
    "leaves_out": Offer("which data no parameters make possible, (N,), and why: fits leave them out"),
    "why_impossible": Offer(
        "one phrase on why the data of these indices have probability zero", ("model",), "x, which"
    ),
}

#: What an argument is, by its name, in every method of a model that does not say otherwise. Shapes of ``x``, and of
#: what else the programs observe, are the class's own.
ARGUMENTS: dict[str, str] = {
    "x": "the data, or, of p(y | x), what is given",
    "y": "of p(y | x): what is observed, (N, ...)",
    "lengths": "of sequences x: (N,) whole numbers; what lies beyond is never read",
    "target_lengths": "of sequences y: (N,) whole numbers",
    "weights": "how often each datum counts, (N,)",
    "known": "by latent, its values (N, ...), -1 or NaN where they are not known",
    "hard": "whether the most probable z alone counts",
    "statistics": "what `e_step` gave, or sums of it",
    "num_particles": "draws of the latents for each datum, at least 1",
    "num_samples": "draws a datum for a mean that has no formula",
    "num": "how many data, or states, are drawn",
    "num_data": "how many data are drawn",
    "num_steps": "of sequences: how many steps follow",
    "num_sweeps": "sweeps of Gibbs sampling",
    "max_sweeps": "most sweeps until all is still",
    "seed": "where the draws come from; None: torch's generator as it is",
    "init": "one of the model's `inits`",
    "restart": "0 for the first start; later ones should differ in kind where one kind is not enough",
    "models": "copies of the model, of its sizes",
    "template": "data of the shape that is wanted",
    "state": "of a sequence's model: what it keeps from step to step; of an energy's, units (S, D)",
    "z": "a draw of the latent, (..., L)",
    "proposal": "what particles are drawn from: the `guide`, or the `prior`",
    "problem": "of a fit: its model and data",
    "order": "for each component the number of the one that takes its place, (K,)",
    "which": "numbers of rows, or masks of components (K,)",
    "held": "by parameter, a mask of what stays as it is",
    "layers": "of sigmoid units, from the data up: weights (D, H) and biases (H,)",
    "given_alone": "of p(observed | given): whether no more than what is given is there",
    "name": "of a parameter, as in `named_parameters`",
    "names": "of parameters, as in `named_parameters`",
}


def follows(*programs: str) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    """Mark a method that is written for other programs than :data:`OFFERS` has for its name."""

    def marked(method: Callable[..., Any]) -> Callable[..., Any]:
        method.follows = programs  # type: ignore[attr-defined]
        return method

    return marked
