"""The benchmark: every model measured by one protocol, which has a hash (docs/benchmark.md).

suites.py       what is measured, and how: one YAML each
protocol.py     what the numbers follow from, and its hash
subject.py      one model under one suite: its pictures, features and heads, made once
measures.py     the measures by name, with their intervals
speed.py        speed, memory, size
evaluation.py   all of it for one model: a result
results.py      results on disk
table.py        several results as one table, page.py as one page
"""
