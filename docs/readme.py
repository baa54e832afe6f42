"""The README's picture: ``python docs/readme.py`` draws ``docs/readme.png`` from three fits."""

from __future__ import annotations

from pathlib import Path

import matplotlib as mpl
import matplotlib.pyplot as plt
import numpy as np

import zoo

TARGET = Path(__file__).resolve().parent / "readme.png"
COLOURS = ("#4477aa", "#ee6677", "#228833")


def main() -> None:
    mpl.use("Agg")
    fig, (curves, ellipses, series) = plt.subplots(
        1, 3, figsize=(13, 3.6), layout="constrained", width_ratios=(1, 1, 1.25)
    )
    x = zoo.load_data("iris")[:, 2:]
    comparison = zoo.compare(zoo.GaussianMixture(3, 2), x, estimators=["em", "eg", "svi", "gumbel"], gradients=False)
    best = max(fit.log_likelihood or -np.inf for fit in comparison.fits)
    for fit in comparison.fits:
        history = fit.history["log_likelihood"]
        climbed = [(i, best - value) for i, value in enumerate(history, 1) if value is not None and best - value > 0]
        curves.loglog(*np.array(climbed).T, label=fit.estimator)
    curves.set(title="Four estimators, one likelihood", xlabel="iteration", ylabel="nats below the best")
    curves.set_ylim(1e-4, None)
    curves.legend(frameon=False)

    fit = comparison.fits[0]
    means, covariances = fit.parameters["means"], fit.parameters["covariances"]
    labels = fit.predict(x).numpy()
    for k, colour in enumerate(COLOURS):
        ellipses.plot(*x[labels == k].T.numpy(), ".", color=colour, ms=4)
        values, axes = np.linalg.eigh(covariances[k])
        angle = float(np.degrees(np.arctan2(axes[1, 1], axes[0, 1])))
        for deviations in (1, 2):
            width, height = 2 * deviations * np.sqrt(values[::-1])
            ellipses.add_patch(
                mpl.patches.Ellipse(tuple(means[k]), width, height, angle=angle, fc="none", ec=colour, lw=1.2)
            )
    ellipses.set(title="The mixture that EM found", xlabel="petal length, cm", ylabel="petal width, cm")

    quakes = zoo.load_data("earthquakes")
    chain = zoo.fit("poisson_hmm", quakes, num_states=3)
    path, years = chain.viterbi(quakes)[0].flatten().numpy(), 1900 + np.arange(len(quakes))
    rates = chain.parameters["rates"].ravel()
    series.plot(years, quakes[:, 0], color="0.75", lw=0.8)
    for rank, state in enumerate(np.argsort(rates)):
        here = path == state
        series.plot(years[here], quakes[here, 0], ".", color=COLOURS[rank], label=f"{rates[state]:.1f} a year")
    series.step(years, rates[path], where="mid", color="black", lw=1.2)
    series.set(title="Earthquakes, by the states of a hidden Markov model", xlabel="year", ylabel="a year")
    series.legend(frameon=False, ncols=3, loc="upper right")
    series.set_ylim(0, 50)
    fig.savefig(TARGET, dpi=110)


if __name__ == "__main__":
    main()
    print(f"wrote {TARGET.name}")
