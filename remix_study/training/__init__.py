"""One run, from its first epoch to its evidence

loop.py         the spine: plan, train, evaluate, record, checkpoint; then the evidence at the end
step.py         one optimizer step of the whole world
scoring.py      what every modality alone says about every training sample
evaluate.py     one encoder pass -> accuracies, balance, missing modalities
evidence.py     probe, sufficiency and test, once, when training is over
rates.py        learning rate as a function of the epoch
state.py        what an epoch leaves behind, and what an exact resume needs
checkpoint.py   last and best, written atomically
"""
