"""Downstream tasks made elsewhere: a recipe → a task folder, shared by all arms (stage `benchmark`)."""

from evaluation.benchmarks.base import Benchmark, Folder, NoBenchmark, build_benchmark
from evaluation.benchmarks.bigbench import BigBench
from evaluation.benchmarks.harness_tasks import HarnessTasks

__all__ = ["Benchmark", "BigBench", "Folder", "HarnessTasks", "NoBenchmark", "build_benchmark"]
