"""Training of one run

loop.py               the training loop: plan, train, evaluate, record and checkpoint every epoch
step.py               one optimizer step over all ranks
unimodal_gradients.py gradients of the unimodal losses apart from all others, for methods that combine them
scoring.py            scoring pass: unimodal predictions for every training sample
evaluate.py           one encoder pass -> accuracies, balance, missing modalities
final_evaluation.py   linear probes, sufficiency and test split, once, after the last epoch
learning_rate.py      learning-rate schedules as functions of the epoch
state.py              the content of a checkpoint
checkpoint.py         last and best checkpoint, replaced atomically
partial_epoch.py      the checkpoint of a preempted run, within an epoch
copies.py             train copies of a model before an epoch
"""
