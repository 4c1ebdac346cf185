"""Training of one run

loop.py               the training loop: plan, train, evaluate, record and checkpoint every epoch
run.py                the parts of a run, and its results
steps.py              learning rates and batches of the steps of a run
step.py               one optimizer step over all ranks
unimodal_gradients.py gradients of the unimodal losses apart from all others, for methods that combine them
scoring.py            scoring pass: unimodal predictions for every training sample
evaluate.py           one encoder pass -> accuracies, balance, missing modalities
final_evaluation.py   linear probes, sufficiency and test split, once, after the last epoch
learning_rate.py      learning-rate schedules as functions of the epoch
records.py            the metrics of an epoch and of a run
preemption.py         a run saves a checkpoint and ends when its node is about to be preempted
state.py              the content of a checkpoint
checkpoint.py         last and best checkpoint, replaced atomically
partial_epoch.py      the checkpoint of a preempted run, within an epoch
copies.py             train copies of a model before an epoch
"""
