"""The figures of one run, by the artifact names under which MLflow shows them"""

# N training samples, M modalities

from matplotlib.figure import Figure

from remix_study.config.method import RemixConfig
from remix_study.config.run import RunConfig
from remix_study.figures import run as f
from remix_study.figures.quantities import planned_values, quantities
from remix_study.remix import RemixPlan
from remix_study.training.run import Run, RunResult

UNITS = {
    "kl": "bits from uniform",
    "kl_normalised": "bits from uniform / log2 C",
    "cross_entropy": "log p of the true class, nats",
    "true_class": "p of the true class",
}


def run_figures(config: RunConfig, run: Run, result: RunResult) -> dict[str, Figure]:
    """Return the run's figures by artifact name.

    These are the learning curves; what added methods did, if they acted; what schedules planned, if there are any; and,
    for Remix, the assignment over epochs and histograms of the scores of the last scoring pass, over all samples and
    per class.
    """
    modalities = run.model.modalities
    found = {"figures/learning_curves.png": f.draw_learning_curves(f.learning_curves(result.history, modalities))}
    if quantities(result.history):
        found["figures/what_methods_did.png"] = f.draw_what_methods_did(f.what_methods_did(result.history, modalities))
    if planned_values(result.history):
        found["figures/schedules.png"] = f.draw_what_methods_did(f.schedules(result.history, modalities))
    if not isinstance(config.method, RemixConfig):
        return found
    over_epochs = f.assignment(result.history, modalities, config.method.warmup)
    found["figures/assignment.png"] = f.draw_assignment(over_epochs)
    plan = run.method.plan
    scoring_pass = plan.last_scoring_pass if isinstance(plan, RemixPlan) else None
    if scoring_pass is not None:
        unit = UNITS[config.method.score]
        overall = f.score_histograms(scoring_pass.scores_NM, modalities)
        found["figures/scores.png"] = f.draw_score_histograms(overall, unit)
        store = run.reader.store
        labels_N = store.labels_N[run.rows["train"]]
        by_class = f.score_histograms(scoring_pass.scores_NM, modalities, labels_N, store.classes)
        found["figures/scores_by_class.png"] = f.draw_score_histograms(by_class, unit)
    return found
