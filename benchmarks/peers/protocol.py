"""How a contestant talks with benchmarks/pretrain_throughput.py: a JSON object a line, both ways.

It reads a task and answers when its model is made; then it reads `{"steps": N}` as often as it is
its turn, trains N steps and answers what they took. Between its turns it waits in a read and
computes nothing. It runs in an environment of its own, hence only the standard library here.

A task is a dict:
  batch_size: examples of a step.
  dtype: "float32" or "bfloat16" (activations; the weights are float32 in both).
  config: the run, the keys of `electra_tf.configs.PretrainingConfig`.
  discriminator, generator: encoders, the keys of `EncoderConfig`, which are Hugging Face's.
  max_predictions: hidden positions of an example.
  mask_id, special_ids: id of [MASK]; ids that are never hidden.
  batches: .npz of input_ids, input_mask, segment_ids, int32 [N, T], in the order to train in.
  records: folder of the same examples as records.

benchmarks/serving.py talks in the same way; `serve_requests` has its turns.
"""

import json
import os
import resource
import sys
import time


def serve(build):
    """Speaks the protocol until the parent closes the pipe.

    Args:
      build: function of a task that makes a model and returns a function of a number of steps,
        which trains them, waits for the last one and returns its loss.
    """

    def turns(task):
        run_steps = build(task)

        def turn(steps):
            wall, cpu = time.perf_counter(), time.process_time()
            loss = float(run_steps(steps))
            return {
                "seconds_per_step": (time.perf_counter() - wall) / steps,
                "cpu_seconds_per_step": (time.process_time() - cpu) / steps,
                "peak_rss_mb": peak_rss_mb(),
                "loss": loss,
            }

        return turn

    _converse(turns)


def serve_requests(build):
    """Speaks the protocol of benchmarks/serving.py.

    A turn has `texts`, list of str, and `requests`, how often they are asked for, one request after the
    other; answered are `seconds`, a list of each request's, `cpu_seconds` of all, and `scores`.

    Args:
      build: function of a task that loads a model and returns a function from list of str to scores,
        list of lists.
    """

    def turns(task):
        predict = build(task)

        def turn(texts, requests):
            seconds, cpu = [], time.process_time()
            for _ in range(requests):
                begin = time.perf_counter()
                scores = predict(texts)
                seconds.append(time.perf_counter() - begin)
            cpu = time.process_time() - cpu
            return {"seconds": seconds, "cpu_seconds": cpu, "scores": scores}

        return turn

    _converse(turns)


def _converse(build):
    """Answers a task, then turns; `build` gives for a task a function of a turn's keys."""
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # What libraries print goes to the log.

    def answer(values):
        print(json.dumps(values), file=answers, flush=True)

    turn = build(json.loads(sys.stdin.readline()))
    answer({"is_ready": True})
    for line in iter(sys.stdin.readline, ""):
        answer(turn(**json.loads(line)))


def step_by_step(train_step, batches):
    """The function of a number of steps that `serve` asks for.

    Args:
      train_step: function of a batch that returns the loss.
      batches: iterator.
    """

    def run_steps(steps):
        for _ in range(steps):
            loss = train_step(next(batches))
        return loss

    return run_steps


def peak_rss_mb():
    """Most memory that this process has held, in 10^6 bytes.

    Linux's `getrusage` counts what the parent held when it started this process; /proc does not.
    """
    try:
        with open("/proc/self/status") as f:
            line = next(line for line in f if line.startswith("VmHWM"))
        return int(line.split()[1]) * 1024 / 1e6
    except FileNotFoundError:  # macOS, which counts in bytes.
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e6
