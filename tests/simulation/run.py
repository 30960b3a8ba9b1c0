"""Runs seeds: `python -m tests.simulation.run --help`."""

from tests.simulation.faults import make_plan
from tests.simulation.cluster import Cluster
import sys, time
for seed in range(int(sys.argv[1]), int(sys.argv[2])):
    cluster = Cluster(make_plan(seed), keep_trace=len(sys.argv) > 3)
    f = cluster.run()
    if len(sys.argv) > 3: print(cluster.world.trace_text)
    print(f.seed, f.profile, f.size, f"{f.cpu_s:.2f} sim {f.simulated_s} ack {f.acknowledged}/{f.posted} del {f.deliveries} dup {f.duplicates} ent {f.entries} el {f.elections} wait {f.longest_wait_s} healed {f.healed_s} {f.violation} {f.trace_sha256[:8]}", sum(f.faults.values()))
